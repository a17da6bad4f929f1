package qupath.lib.objects.classes

class PathClass {
    final String name
    private static final Map<String, PathClass> KNOWN = [:]
    private PathClass(String name) { this.name = name }
    static PathClass getInstance(String name) {
        if (!KNOWN.containsKey(name)) KNOWN[name] = new PathClass(name)
        KNOWN[name]
    }
    @Override String toString() { name }
}
