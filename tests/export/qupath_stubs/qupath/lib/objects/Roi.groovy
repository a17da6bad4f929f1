package qupath.lib.objects

class Roi {
    List<List<List>> rings
    private List xs() { rings[0].collect { it[0] as double } }
    private List ys() { rings[0].collect { it[1] as double } }
    boolean isEmpty() { rings.isEmpty() }
    double getBoundsX() { xs().min() }
    double getBoundsY() { ys().min() }
    double getBoundsWidth() { xs().max() - xs().min() }
    double getBoundsHeight() { ys().max() - ys().min() }
    double getArea() {
        def areas = rings.collect { ring ->
            double sum = 0
            for (int i = 0; i + 1 < ring.size(); i++) {
                sum += ring[i][0] * ring[i + 1][1] - ring[i + 1][0] * ring[i][1]
            }
            Math.abs(sum) / 2
        }
        areas[0] - (areas.drop(1).sum() ?: 0)
    }
}
