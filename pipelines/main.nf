// The job as a Nextflow workflow, one process a stage:
//   nextflow run pipelines/main.nf --manifest cohort.csv --out out
// Written from Nextflow's documentation and not run by this project's tests (see docs/how-to/workflows.md).
// Stages write into the one output folder, which all nodes must see; -resume is not needed, since a
// stage that is run again does nothing that is done already.
nextflow.enable.dsl = 2

params.manifest = 'cohort.csv'
params.out      = 'out'
params.tile     = '--mpp 0.5 --patch-size 256 --overlap 0.5'
params.train    = '--epochs 20'
params.formats  = 'geojson,ome-tiff,png,figure'

process tile {
    cpus 8
    input:  tuple val(manifest), val(out)
    output: tuple val(manifest), val(out)
    script: "scaat tile --manifest '${manifest}' --out '${out}' ${params.tile} --workers ${task.cpus} --quiet"
}

process train {
    label 'gpu'
    input:  tuple val(manifest), val(out)
    output: tuple val(manifest), val(out)
    script: "scaat train --manifest '${manifest}' --out '${out}' ${params.train} --quiet"
}

process explain {
    label 'gpu'
    cpus 8
    input:  tuple val(manifest), val(out)
    output: tuple val(manifest), val(out)
    script: "scaat explain --out '${out}' --workers ${task.cpus} --quiet"
}

process predict {
    input:  tuple val(manifest), val(out)
    output: tuple val(manifest), val(out)
    script: "scaat predict --manifest '${manifest}' --out '${out}' --quiet"
}

process stitch {
    cpus 8
    input:  tuple val(manifest), val(out)
    output: tuple val(manifest), val(out)
    script: "scaat stitch --out '${out}' --workers ${task.cpus} --quiet"
}

process export {
    cpus 8
    input:  tuple val(manifest), val(out)
    output: tuple val(manifest), val(out)
    script: "scaat export --out '${out}' --manifest '${manifest}' --formats ${params.formats} --workers ${task.cpus} --quiet"
}

workflow {
    cohort = Channel.of([file(params.manifest).toAbsolutePath().toString(), file(params.out).toAbsolutePath().toString()])
    explained = explain(train(tile(cohort)))
    predict(explained)
    export(stitch(explained))
}
