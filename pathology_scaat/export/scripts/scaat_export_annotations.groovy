/*
 * Write the annotations of every image of a project for 'scaat import-annotations'.
 *
 * In QuPath: open the project, open this script, "Run for project"; or without a window:
 *
 *   QuPath script -p /path/project.qpproj -a /path/corrected scaat_export_annotations.groovy
 *
 * Each image gives <slide>.geojson in the folder, <slide> being the image file's name without
 * its last ending. Only annotations with a class are written; tiles stay where they are.
 */
import qupath.fx.dialogs.FileChoosers

def folder = args && args.length > 0 ? new File(args[0]) : FileChoosers.promptForDirectory('Folder for annotations', null)
if (folder == null) {
    println 'SCAAT: give the folder for annotations (-a FOLDER)'
    return
}
folder.mkdirs()

def server = getCurrentServer()
def path = server.getURIs().isEmpty() ? server.getMetadata().getName() : server.getURIs()[0].getPath()
def fileName = path.substring(path.replace('\\', '/').lastIndexOf('/') + 1)
def slide = fileName.contains('.') ? fileName.substring(0, fileName.lastIndexOf('.')) : fileName

def annotations = getAnnotationObjects().findAll { it.getPathClass() != null && it.hasROI() }
def file = new File(folder, slide + '.geojson')
exportObjectsToGeoJson(annotations, file.getAbsolutePath(), 'FEATURE_COLLECTION')
println "SCAAT ${slide}: ${annotations.size()} annotations written"
