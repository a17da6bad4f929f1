/* A disk as some are: below DISK_ROOT, the calls that DISK_WITHOUT names do not work. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int without(const char *call) {
    const char *calls = getenv("DISK_WITHOUT");
    return calls && strstr(calls, call);
}

static int below(const char *path) {
    const char *root = getenv("DISK_ROOT");
    char full[4096];
    if (!root || !path) return 0;
    if (path[0] != '/' && getcwd(full, 2000)) {
        strcat(full, "/");
        strncat(full, path, 2000);
        path = full;
    }
    return strstr(path, root) != NULL;
}

static int open_below(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

int link(const char *from, const char *to) {
    if (without("link") && below(to)) { errno = EPERM; return -1; }
    return REAL(link)(from, to);
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
    if (without("link") && below(to)) { errno = EPERM; return -1; }
    return REAL(linkat)(a, from, b, to, flags);
}

int fsync(int descriptor) {
    struct stat found;
    if (without("foldersync") && open_below(descriptor) && !fstat(descriptor, &found)
        && S_ISDIR(found.st_mode)) { errno = EINVAL; return -1; }
    return REAL(fsync)(descriptor);
}

int flock(int descriptor, int operation) {
    if (without("flock") && open_below(descriptor)) { errno = ENOLCK; return -1; }
    return REAL(flock)(descriptor, operation);
}

int rename(const char *from, const char *to) {
    struct stat found;
    if (without("replace") && below(to) && !lstat(to, &found)) { errno = EEXIST; return -1; }
    return REAL(rename)(from, to);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned int flags) {
    if (without("exchange") && below(to)) { errno = EINVAL; return -1; }
    return REAL(renameat2)(a, from, b, to, flags);
}
