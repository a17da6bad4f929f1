package qupath.lib.io

import java.nio.file.Path
import java.util.zip.GZIPInputStream
import qupath.lib.objects.PathObject

/** Reads GeoJSON as QuPath does as far as the scripts see it: another text is "no objects". */
class PathIO {
    static List<PathObject> readObjects(Path path) {
        def file = path.toFile()
        def text = file.withInputStream { raw ->
            (file.getName().endsWith('.gz') ? new GZIPInputStream(raw) : raw).getText('UTF-8')
        }
        def value = GsonTools.getInstance().fromJson(text, Object)
        def features = value instanceof Map ? value.features : value
        features instanceof List ? features.collect { PathObject.of(it) } : []
    }
}
