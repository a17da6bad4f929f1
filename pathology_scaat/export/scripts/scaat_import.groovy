/*
 * Import the tiles and high-saliency regions of pathology_scaat into every image of a project.
 *
 * In QuPath: open the project, open this script, "Run for project", and choose the folder of
 * overlays when asked; or, for all images without a window:
 *
 *   QuPath script -p /path/project.qpproj -s -a /path/overlays scaat_import.groovy
 *
 * For each image, <slide>.geojson.gz (or <slide>.geojson) is looked for in that folder, where
 * <slide> is the name of the image file without its ending. One line is printed for each:
 *
 *   SCAAT <slide>: imported N objects (M replaced)   all well
 *   SCAAT <slide>: REFUSED ...                       the file does not fit the open image
 *   SCAAT <slide>: no file                           nothing was exported for it
 *
 * Look at the lines: QuPath does not stop a batch, nor change its exit code, for one image.
 * Importing again replaces objects by their id and doubles nothing.
 */
import groovy.json.JsonSlurper
import qupath.fx.dialogs.FileChoosers
import qupath.lib.io.PathIO
import qupath.lib.objects.classes.PathClass

def folder = args && args.length > 0 ? new File(args[0]) : FileChoosers.promptForDirectory('Folder of overlays', null)
if (folder == null || !folder.isDirectory()) {
    println 'SCAAT: give the folder of overlays (-a FOLDER)'
    return
}

def server = getCurrentServer()
// the URI is the file; the image's name may be "file - series" or anything the user typed
def path = server.getURIs().isEmpty() ? server.getMetadata().getName() : server.getURIs()[0].getPath()
def fileName = path.substring(path.replace('\\', '/').lastIndexOf('/') + 1)

// names to try: the whole file name, then without one ending after the other
def names = [fileName]
while (names[-1].contains('.')) {
    names << names[-1].substring(0, names[-1].lastIndexOf('.'))
}
def file = names.collectMany { [new File(folder, it + '.geojson.gz'), new File(folder, it + '.geojson')] }
                .find { it.isFile() }
if (file == null) {
    println "SCAAT ${fileName}: no file"
    return
}
def slide = file.getName().replaceAll(/\.geojson(\.gz)?$/, '')

// the record beside the overlays says which frame they were written for
def record = new File(folder, slide + '.json')
if (record.isFile()) {
    def size = new JsonSlurper().parse(record).coordinates.frame_size_px
    if (Math.abs(size[0] - server.getWidth()) > 1 || Math.abs(size[1] - server.getHeight()) > 1) {
        println "SCAAT ${slide}: REFUSED, made for an image of ${size[0]} x ${size[1]} px, " +
                "the open one has ${server.getWidth()} x ${server.getHeight()} px " +
                '(export again with the other --qupath-origin)'
        return
    }
}

def objects
try {
    objects = PathIO.readObjects(file.toPath())
} catch (Exception error) {
    println "SCAAT ${slide}: REFUSED, ${file.getName()} cannot be read (${error.getClass().getSimpleName()})"
    return
}
def outside = objects.count {
    def roi = it.getROI()
    roi == null || roi.isEmpty() || roi.getBoundsX() < -1 || roi.getBoundsY() < -1 ||
        roi.getBoundsX() + roi.getBoundsWidth() > server.getWidth() + 1 ||
        roi.getBoundsY() + roi.getBoundsHeight() > server.getHeight() + 1
}
if (outside > 0) {
    println "SCAAT ${slide}: REFUSED, ${outside} of ${objects.size()} objects are outside the open image"
    return
}

def hierarchy = getCurrentHierarchy()
def ids = objects.collect { it.getID() } as Set
def old = hierarchy.getAllObjects(false).findAll { ids.contains(it.getID()) }
hierarchy.removeObjects(old, true)
hierarchy.addObjects(objects)

def project = getProject()
if (project != null) {
    def known = new ArrayList<PathClass>(project.getPathClasses())
    def missing = objects.collect { it.getPathClass() }.findAll { it != null }.unique() - known
    if (!missing.isEmpty()) {
        project.setPathClasses(known + missing)
    }
}
println "SCAAT ${slide}: imported ${objects.size()} objects (${old.size()} replaced)"
