package qupath.lib.io

import com.google.gson.Gson

class GsonTools {
    static Gson getInstance() { new Gson() }
}
