package qupath.lib.objects

import qupath.lib.objects.classes.PathClass

/** An object of the hierarchy, with the methods of QuPath's class that the scripts call. */
class PathObject {
    Map feature
    private PathClass pathClass
    private Map<String, Number> measurements
    private Map<String, String> metadata

    static PathObject of(Map feature) {
        def made = new PathObject(feature: feature)
        def properties = feature.properties ?: [:]
        def given = properties.classification
        def name = given instanceof Map ? (given.names ? given.names.join(': ') : given.name) : given
        made.pathClass = name == null ? null : PathClass.getInstance(name)
        // tiles keep their measurements as 32-bit numbers
        made.measurements = (properties.measurements ?: [:]).collectEntries { k, v ->
            [k, made.isDetection() ? (double) (float) v : v]
        }
        made.metadata = new LinkedHashMap(properties.metadata ?: [:])
        made
    }
    UUID getID() { UUID.fromString(feature.id) }
    Roi getROI() {
        def geometry = feature.geometry
        geometry == null ? null : new Roi(rings: geometry.type == 'Polygon' ? geometry.coordinates : geometry.coordinates[0])
    }
    boolean hasROI() { feature.geometry != null }
    boolean isDetection() { feature.properties.objectType in ['tile', 'detection'] }
    boolean isTile() { feature.properties.objectType == 'tile' }
    boolean isAnnotation() { feature.properties.objectType == 'annotation' }
    String getName() { feature.properties.name }
    PathClass getPathClass() { pathClass }
    void setPathClass(PathClass given) { pathClass = given }
    Map<String, Number> getMeasurements() { measurements }
    Map<String, String> getMetadata() { metadata }
    Map toFeature() {
        def properties = new LinkedHashMap(feature.properties)
        if (pathClass == null) properties.remove('classification')
        else properties.classification = [name: pathClass.toString(), color: [1, 2, 3]]
        feature + [properties: properties]
    }
}
