/* Runs scripts as QuPath does: its methods are the script's own. Scenarios come in as JSON. */
import com.google.gson.Gson
import org.codehaus.groovy.control.CompilerConfiguration
import qupath.lib.objects.PathObject
import qupath.lib.objects.classes.PathClass

class Server {
    Map image
    List<URI> getURIs() { image.uri == null ? [] : [new URI(image.uri)] }
    Map getMetadata() { [name: image.name] }
    int getWidth() { image.width as int }
    int getHeight() { image.height as int }
    String getServerType() { image.type ?: 'OpenSlide' }
}

class WrappedServer extends Server {
    protected Server getWrappedServer() { new Server(image: image + [type: image.wrapped]) }
}

class Hierarchy {
    List<PathObject> objects = []
    Collection getAllObjects(boolean root) { new ArrayList(objects) }
    boolean removeObjects(Collection gone, boolean keep) { objects.removeAll { o -> gone.any { it.is(o) } } }
    boolean addObjects(Collection fresh) {
        assert fresh.every { one -> !objects.any { it.getID() == one.getID() } } : 'an id twice'
        objects.addAll(fresh)
    }
}

class Entry {
    Map image
    String getID() { image.id }
    List<URI> getURIs() { [new URI(image.uri)] }
}

class Project {
    List images
    List classes = []
    List getPathClasses() { classes }
    boolean setPathClasses(Collection given) { classes = new ArrayList(given) }
    List getImageList() { images.collect { new Entry(image: it) } }
}

abstract class QuPathScript extends Script {
    def getCurrentServer() { getProperty('server') }
    def getCurrentHierarchy() { getProperty('hierarchy') }
    def getProject() { getProperty('project') }
    def getProjectEntry() { getProperty('entry') }
    def getCurrentViewer() { null }
    def getAnnotationObjects() { getCurrentHierarchy().objects.findAll { it.isAnnotation() } }
    void exportObjectsToGeoJson(Collection objects, String path, String option) {
        assert option == 'FEATURE_COLLECTION'
        new File(path).setText(new Gson().toJson([type: 'FeatureCollection', features: objects*.toFeature()]), 'UTF-8')
    }
}

def job = new Gson().fromJson(new File(args[0]).getText('UTF-8'), Map)
def configuration = new CompilerConfiguration(scriptBaseClass: QuPathScript.name)
def results = job.runs.collect { run ->
    def project = new Project(images: run.images)
    run.images.collect { image ->
        def hierarchy = new Hierarchy(objects: (image.objects ?: []).collect { PathObject.of(it) })
        def out = new StringWriter()
        def server = image.wrapped ? new WrappedServer(image: image) : new Server(image: image)
        def binding = new Binding([
            args: run.args as String[], server: server, hierarchy: hierarchy, project: project,
            entry: new Entry(image: image), out: new PrintWriter(out, true),
        ])
        new GroovyShell(this.class.classLoader, binding, configuration).evaluate(new File(run.script))
        [lines: out.toString().readLines(), objects: hierarchy.objects*.toFeature(),
         classes: project.classes*.toString()]
    }
}
new File(args[1]).setText(new Gson().toJson(results), 'UTF-8')
