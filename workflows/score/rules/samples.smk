OUT = config["output"]

if not Path(config["samples"]).is_file():
    raise WorkflowError(
        f"there is no sheet {config['samples']!r} in {Path.cwd()}; write one, or name yours as `samples` in a --configfile"
    )

SAMPLES = pd.read_csv(config["samples"], sep="\t", dtype=str)

validate(SAMPLES, schema="../config/samples.schema.yaml")

SAMPLES = SAMPLES.set_index("sample", verify_integrity=True)["path"]
IS_REGIONS = SAMPLES.str.contains(r"\.bed(?:\.gz)?$")
REGIONS, VARIANTS = SAMPLES[IS_REGIONS], SAMPLES[~IS_REGIONS]


wildcard_constraints:
    sample="[A-Za-z0-9_][A-Za-z0-9_.-]*",
