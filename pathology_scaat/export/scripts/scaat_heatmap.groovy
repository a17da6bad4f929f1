/*
 * Show the saliency map of pathology_scaat over the open slide.
 *
 * Open the slide, open this script, Run, and choose <slide>.ome.tiff when asked (or set FILE).
 * The overlay follows the opacity slider and the C key; run again to replace it.
 */
import java.awt.image.BufferedImage
import javafx.application.Platform
import qupath.lib.color.ColorMaps
import qupath.fx.dialogs.FileChoosers
import qupath.lib.gui.viewer.overlays.BufferedImageOverlay
import qupath.lib.images.servers.ImageServers
import qupath.lib.io.GsonTools
import qupath.lib.regions.ImageRegion
import qupath.lib.regions.RegionRequest

def FILE = null          // for example '/path/overlays/slide.ome.tiff'
def CHANNEL = 'saliency' // or 'probability: tumour'
def COLOURS = 'Viridis'
def MOST_PIXELS = 4000   // along the longer side of the picture that is drawn

def viewer = getCurrentViewer()
def slide = getCurrentServer()
def file = FILE != null ? new File(FILE) : FileChoosers.promptForFile("Map (.ome.tiff)", FileChoosers.FILTER_ALL_FILES)
if (viewer == null || slide == null || file == null || !file.isFile()) {
    println 'SCAAT: open a slide and choose its map'
    return
}

// scale of the map and top of its colours, from the record beside it
def name = file.getName().replaceAll(/\.ome\.tiff?$/, '')
def recordFile = new File(file.getParentFile(), name + '.json')
if (!recordFile.isFile()) {
    println "SCAAT: ${name}.json is not beside the map"
    return
}
def refused = { why -> println "SCAAT ${name}: REFUSED, ${why}" }
def record = null
try {
    record = GsonTools.getInstance().fromJson(recordFile.getText('UTF-8'), Map)
} catch (Exception error) {
    refused("the record ${name}.json is damaged; export the slide again")
    return
}
def frame = record?.files?.get(file.getName())?.frame
if (!(frame?.width_px instanceof Number) || !(frame?.height_px instanceof Number) ||
        !(record.map?.scale_px instanceof Number) || !(record.colour_scale?.vmax instanceof Number)) {
    refused("the record ${name}.json says nothing of ${file.getName()}; export the slide again")
    return
}
if (Math.abs(frame.width_px - slide.getWidth()) > 1 || Math.abs(frame.height_px - slide.getHeight()) > 1) {
    refused("the map is of an image of ${frame.width_px as long} x ${frame.height_px as long} px")
    return
}
// a rotated, mirrored, cropped or warped image has other coordinates, maybe at the same size
def moved = null
def inner = slide
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
// slides may have ids other than their names: told, not refused
def shown = slide.getURIs().isEmpty() ? slide.getMetadata().getName() : slide.getURIs()[0].getPath()
if (!shown.replace('\\', '/').replace('/', '_').contains(name)) {
    println "SCAAT ${name}: the open slide is ${shown.replace('\\', '/').split('/')[-1]}; see that the map is its own"
}

def map = ImageServers.buildServer(file.toURI())
try {
    def channel = map.getMetadata().getChannels().findIndexOf { it.getName() == CHANNEL }
    if (channel < 0) {
        println "SCAAT ${name}: no channel '${CHANNEL}' in ${map.getMetadata().getChannels()*.getName()}"
        return
    }
    double top = CHANNEL == 'saliency' ? record.colour_scale.vmax : 1.0
    double downsample = Math.max(1.0, Math.max(map.getWidth(), map.getHeight()) / (double) MOST_PIXELS)
    def raster = map.readRegion(RegionRequest.createInstance(map, downsample)).getRaster()
    def colours = ColorMaps.getColorMaps().get(COLOURS)
    int w = raster.getWidth()
    int h = raster.getHeight()
    def picture = new BufferedImage(w, h, BufferedImage.TYPE_INT_ARGB)
    float[] row = new float[w]
    int[] argb = new int[w]
    for (int y = 0; y < h; y++) {
        raster.getSamples(0, y, w, 1, channel, row)
        for (int x = 0; x < w; x++) {
            // NaN is "no data": transparent
            if (Float.isNaN(row[x])) {
                argb[x] = 0
            } else {
                double share = Math.min(1.0d, Math.max(0.0d, row[x] / top))
                // little is transparent, as in the pictures: else every patch casts a grey square
                double seen = Math.max(0.0d, (share - 0.04) / 0.96)
                int alpha = (int) Math.round(255 * 0.85 * Math.pow(seen, 0.7))
                argb[x] = (alpha << 24) | (colours.getColor(share, 0, 1) & 0xFFFFFF)
            }
        }
        picture.setRGB(0, y, w, 1, argb, 0, w)
    }
    // the last map pixels may reach beyond the slide: the region is that of whole map pixels
    double scale = record.map.scale_px
    def region = ImageRegion.createInstance(0, 0,
            (int) Math.round(map.getWidth() * scale), (int) Math.round(map.getHeight() * scale), 0, 0)
    def overlay = new BufferedImageOverlay(viewer.getOverlayOptions(), region, picture)
    Platform.runLater {
        viewer.getCustomOverlayLayers().setAll(overlay)
        viewer.repaint()
    }
    println "SCAAT ${name}: ${CHANNEL}, 0 to ${top}"
} finally {
    map.close()
}
