import { testOpenNetwork } from "../../src/testing/index.ts";
import { makeLab } from "../network/support/lab.ts";
import { serveInLab } from "../network/support/serve.ts";

for (const program of ["crun", "runc"]) {
  testOpenNetwork(`oci with ${program}`, async () => {
    const lab = await makeLab();
    const engine = await serveInLab(lab, ["--runtime", "oci", "--oci-program", program]);
    return {
      api: engine.api,
      places: lab.places,
      close: async () => {
        await engine.close();
        await lab.end();
      },
    };
  });
}
