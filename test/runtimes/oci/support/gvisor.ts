import { isUsableGvisor } from "../../../../src/runtimes/oci/gvisor.ts";
import { findOciProgram } from "../../../../src/runtimes/oci/programs.ts";

const runsc = await findOciProgram("runsc");

/** Why nothing can be tested with gVisor on this machine. scripts/test.sh installs what is missing where it can be had. */
export const noGvisor: string | undefined =
  runsc === undefined
    ? "runsc is not installed"
    : isUsableGvisor(runsc.version)
      ? undefined
      : `runsc ${runsc.version} is too old`;
