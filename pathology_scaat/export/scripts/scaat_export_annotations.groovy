/*
 * Write the annotations of every image of a project for 'scaat import-annotations'.
 *
 * In QuPath: open the project, open this script, "Run for project"; or without a window:
 *
 *   QuPath script -p /path/project.qpproj -a /path/corrected scaat_export_annotations.groovy
 *
 * Each image gives <slide>.geojson in the folder, <slide> being the image file's name without
 * its last ending; where the project holds two files of one name, the names of their folders
 * come first (siteA_slide1). Only annotations with a class are written; tiles stay where they
 * are. One line is printed for each image: "N annotations written", or "REFUSED, ..." and why.
 */
import qupath.fx.dialogs.FileChoosers

def folder = args && args.length > 0 ? new File(args[0]) : FileChoosers.promptForDirectory('Folder for annotations', null)
if (folder == null) {
    println 'SCAAT: give the folder for annotations (-a FOLDER)'
    return
}
folder.mkdirs()
// overlays and corrections have the same names: one must not replace the other
if (folder.list().any { it.endsWith('.geojson.gz') && new File(folder, it.replace('.geojson.gz', '.json')).isFile() }) {
    println "SCAAT: REFUSED, ${folder} holds overlays; give another folder for annotations"
    return
}

def server = getCurrentServer()
def partsOf = { path -> path.replace('\\', '/').split('/').findAll { it } }
def stemOf = { name -> name.contains('.') ? name.substring(0, name.lastIndexOf('.')) : name }
def path = server.getURIs().isEmpty() ? server.getMetadata().getName() : server.getURIs()[0].getPath()
def parts = partsOf(path)
def slide = stemOf(parts[-1])
def refused = { why -> println "SCAAT ${slide}: REFUSED, ${why}" }

// a rotated, mirrored, cropped or warped image has other coordinates than the slide
def moved = null
def inner = server
while (inner != null && moved == null) {
    def type = String.valueOf(inner.getServerType())
    moved = type =~ /(?i)\b(rotate|flip) |affine transform|cropped image|sliced image/ ? type : null
    try {
        inner = inner.getWrappedServer()
    } catch (Exception none) {
        inner = null
    }
}
if (moved != null) {
    refused("the image is opened as '${moved}': add it to the project as it was scanned")
    return
}

// other images of the project whose file has the same name
def entry = getProjectEntry()
def others = []
if (getProject() != null && entry != null) {
    getProject().getImageList().findAll { it.getID() != entry.getID() }.each {
        def uris = it.getURIs()
        if (!uris.isEmpty()) {
            others << partsOf(uris[0].getPath())
        }
    }
}
if (others.any { it == parts }) {
    refused('the project holds this file more than once; keep one of the images')
    return
}
// without its ending, then with folders before it, at last with its ending as well
def nameOf = { list, n, whole ->
    def before = list.subList(Math.max(0, list.size() - 1 - n), list.size() - 1)
    (before + [whole ? list[-1] : stemOf(list[-1])]).join('_')
}
def taken = { n, whole -> others.any { nameOf(it, n, whole).equalsIgnoreCase(nameOf(parts, n, whole)) } }
def choice = [false, true].collectMany { whole -> (0..<parts.size()).collect { n -> [n, whole] } }
                          .find { !taken(it[0], it[1]) }
if (choice == null) {
    refused('the project holds another image of this name; rename one of the files')
    return
}
slide = nameOf(parts, choice[0], choice[1])

def annotations = getAnnotationObjects().findAll { it.getPathClass() != null && it.hasROI() }
def file = new File(folder, slide + '.geojson')
exportObjectsToGeoJson(annotations, file.getAbsolutePath(), 'FEATURE_COLLECTION')
println "SCAAT ${slide}: ${annotations.size()} annotations written"
