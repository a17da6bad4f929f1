/*
 * Import the tiles and regions of pathology_scaat into every image of a project.
 *
 * In QuPath: open the project, open this script, "Run for project", and choose the folder of
 * overlays when asked; or, for all images without a window:
 *
 *   QuPath script -p /path/project.qpproj -s -a /path/overlays scaat_import.groovy
 *
 * For each image, <slide>.geojson.gz (or <slide>.geojson) is looked for in that folder, where
 * <slide> is the name of the image file without its last ending; where two folders hold a slide
 * of one name, the folder's name comes first (siteA_slide1). One line is printed for each:
 *
 *   SCAAT <slide>: imported N objects (M replaced)   all well
 *   SCAAT <slide>: REFUSED, ...                      the file does not fit the open image
 *   SCAAT <file>: no file                            nothing was exported for it
 *
 * Look at the lines: QuPath does not stop a batch, nor change its exit code, for one image.
 *
 * Importing again replaces the tiles and regions of the last overlay, also of another model, and
 * doubles nothing. What was changed in QuPath is kept: regions that were given another class,
 * outline or name, and the class of tiles. The line says how many.
 *
 * Then: Measure > Show measurement maps, and press F (fill detections), else the maps are thin lines.
 */
import java.security.MessageDigest
import java.util.zip.GZIPInputStream
import qupath.fx.dialogs.FileChoosers
import qupath.lib.io.GsonTools
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
def parts = path.replace('\\', '/').split('/').findAll { it }
def fileName = parts[-1]

// names of the slide: the file's name, without its last ending, without the two of OME files;
// the folder's name for a DICOM slide; each also with the folders before it
def stems = [fileName]
if (fileName.contains('.')) {
    stems << fileName.substring(0, fileName.lastIndexOf('.'))
}
stems << fileName.replaceAll(/(?i)\.ome\.(tiff?|zarr)$/, '')
if (fileName.toLowerCase().endsWith('.dcm') && parts.size() > 1) {
    stems << parts[-2]
}
def names = []
stems.unique().each { stem ->
    names << stem
    for (int n = parts.size() - 2; n >= 0; n--) {
        names << (parts[n..(parts.size() - 2)] + [stem]).join('_')
    }
}
def fileOf = { name ->
    [new File(folder, name + '.geojson.gz'), new File(folder, name + '.geojson')].find { it.isFile() }
}
// null where there is no record, a text where it cannot be read
def recordOf = { name ->
    def file = new File(folder, name + '.json')
    if (!file.isFile()) {
        return null
    }
    try {
        def value = GsonTools.getInstance().fromJson(file.getText('UTF-8'), Map)
        def frame = value?.files?.get(fileOf(name).getName())?.frame
        if (frame?.width_px instanceof Number && frame?.height_px instanceof Number) {
            return value
        }
        return "the record ${name}.json says nothing of ${fileOf(name).getName()}"
    } catch (Exception error) {
        return "the record ${name}.json is damaged"
    }
}
def frameOf = { name, record -> record.files[fileOf(name).getName()].frame }
def fits = { name, record ->
    !(record instanceof Map) ||
        (Math.abs(frameOf(name, record).width_px - server.getWidth()) <= 1 &&
         Math.abs(frameOf(name, record).height_px - server.getHeight()) <= 1)
}
def found = names.unique().findAll { fileOf(it) != null }
if (found.isEmpty()) {
    println "SCAAT ${fileName}: no file"
    return
}
def fitting = found.findAll { fits(it, recordOf(it)) }
if (fitting.size() > 1) {
    println "SCAAT ${fileName}: REFUSED, ${fitting.join(' and ')} may both be this slide; " +
            'move the files of the other away'
    return
}
def slide = fitting.isEmpty() ? found[0] : fitting[0]
def file = fileOf(slide)
def record = recordOf(slide)
def refused = { why -> println "SCAAT ${slide}: REFUSED, ${why}" }
if (record instanceof CharSequence) {
    refused("${record}; export the slide again")
    return
}

// a rotated, mirrored, cropped or warped image has other coordinates, maybe at the same size
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

// the record says which frame the file was written for, and which bytes it had
if (record != null) {
    def frame = frameOf(slide, record)
    if (!fits(slide, record)) {
        refused("made for an image of ${frame.width_px as long} x ${frame.height_px as long} px, " +
                "the open one has ${server.getWidth()} x ${server.getHeight()} px " +
                '(export again with the other --qupath-origin)')
        return
    }
    def digest = MessageDigest.getInstance('SHA-256')
    file.withInputStream { stream ->
        byte[] block = new byte[1 << 16]
        for (int n = stream.read(block); n > 0; n = stream.read(block)) {
            digest.update(block, 0, n)
        }
    }
    if (digest.digest().encodeHex().toString() != record.files[file.getName()].sha256) {
        refused("${file.getName()} is not the file that its record names; export the slide again")
        return
    }
}

def objects
try {
    // QuPath reads a text or another JSON as "no objects": only GeoJSON may go on
    def head = file.withInputStream { raw ->
        def stream = file.getName().endsWith('.gz') ? new GZIPInputStream(raw) : raw
        byte[] block = new byte[256]
        int n = stream.read(block)
        new String(block, 0, Math.max(n, 0), 'UTF-8')
    }
    if (!(head =~ /^[^\w"]*"type"\s*:\s*"Feature/)) {
        refused("${file.getName()} is no GeoJSON")
        return
    }
    objects = PathIO.readObjects(file.toPath())
} catch (Exception error) {
    refused("${file.getName()} cannot be read (${error.getClass().getSimpleName()})")
    return
}
def outside = objects.count {
    def roi = it.getROI()
    roi == null || roi.isEmpty() || roi.getBoundsX() < -1 || roi.getBoundsY() < -1 ||
        roi.getBoundsX() + roi.getBoundsWidth() > server.getWidth() + 1 ||
        roi.getBoundsY() + roi.getBoundsHeight() > server.getHeight() + 1
}
if (outside > 0) {
    refused("${outside} of ${objects.size()} objects are outside the open image")
    return
}

// What is ours in the image: tiles by their measurements, regions by their metadata. A tile's class
// was changed if another class has a higher probability; a region if its class, name or outline
// is not the one that its metadata tell of.
def SUFFIX = ' probability'
def UNJUDGED = 'Unlike training'
def LITTLE = 'Contributes little'
def LEARNT_NOTHING = 'Model has learnt nothing'
def isTile = { it.isDetection() && it.getMeasurements().keySet().any { name -> name.startsWith('SCAAT: ') } }
def isRegion = { it.isAnnotation() && it.getMetadata().containsKey('outlined at um/px') }
def classOf = { it.getPathClass() == null ? '' : it.getPathClass().toString() }
def tileChanged = { it, twin ->
    def scores = it.getMeasurements().findAll { name, value -> name.startsWith('SCAAT: ') && name.endsWith(SUFFIX) }
    def unlike = it.getMeasurements().get('SCAAT: Unlike training (percentile)')
    if (unlike != null && unlike >= 99 - 1e-6) {  // exported without a class of the model
        return classOf(it) != UNJUDGED && (twin == null || classOf(twin) == UNJUDGED)
    }
    if (classOf(it) == LEARNT_NOTHING) {
        return false  // so was every tile of that model
    }
    if (it.getMeasurements().get('SCAAT: ' + LITTLE) != null) {  // exported with this class
        return classOf(it) != LITTLE && (twin == null || classOf(twin) == LITTLE)
    }
    def own = scores['SCAAT: ' + classOf(it) + SUFFIX]
    scores.isEmpty() ? false : own == null || own < scores.values().max() - 1e-6
}
def outlineChanged = {
    def roi = it.getROI()
    def stated = it.getMetadata().get('outline')
    if (stated == null) {
        return false  // of an overlay that did not say
    }
    def now = [roi.getArea(), roi.getBoundsX(), roi.getBoundsY(), roi.getBoundsWidth(), roi.getBoundsHeight()]
    def then = stated.split(' ').collect { text -> text as double }
    (0..4).any { i -> Math.abs(now[i] - then[i]) > (i == 0 ? 0.5 + 1e-5 * then[0] : 0.05) }
}
def regionChanged = {
    !(classOf(it) in ['Evidence: High', 'Saliency: High']) ||
        !(String.valueOf(it.getName()) ==~ /High (evidence|saliency) \d+/) || outlineChanged(it)
}

def hierarchy = getCurrentHierarchy()
def fresh = new LinkedHashMap()
objects.each { fresh.put(it.getID(), it) }
def old = []
int kept = 0
hierarchy.getAllObjects(false).each {
    def twin = fresh.get(it.getID())
    if (isTile(it)) {
        if (!tileChanged(it, twin)) {
            old << it
        } else if (twin != null && isTile(twin)) {
            twin.setPathClass(it.getPathClass())  // the class of the pathologist, the new measurements
            kept++
            old << it
        } else {
            kept++
            fresh.remove(it.getID())
        }
    } else if (isRegion(it) && !regionChanged(it)) {
        old << it
    } else if (isRegion(it) || twin != null) {
        kept++
        fresh.remove(it.getID())
    }
}
hierarchy.removeObjects(old, true)
hierarchy.addObjects(fresh.values())

def project = getProject()
if (project != null) {
    def known = new ArrayList<PathClass>(project.getPathClasses())
    def missing = objects.collect { it.getPathClass() }.findAll { it != null }.unique() - known
    if (!missing.isEmpty()) {
        project.setPathClasses(known + missing)
    }
}
def untouched = kept == 0 ? '' : ", ${kept} changed in QuPath kept"
println "SCAAT ${slide}: imported ${fresh.size()} objects (${old.size()} replaced${untouched})"
def warning = record?.model?.read_first ?: record?.model?.warning
if (warning) {
    println "SCAAT ${slide}: WARNING, ${warning}"
}
