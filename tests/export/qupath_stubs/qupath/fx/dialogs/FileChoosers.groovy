package qupath.fx.dialogs

class FileChoosers {
    static def FILTER_ALL_FILES
    static File promptForDirectory(String title, File start) { null }
    static File promptForFile(String title, Object filter) { null }
}
