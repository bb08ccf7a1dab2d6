import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Runtime } from "../../../src/contracts/runtime.ts";
import { makeStorage } from "../../runtimes/podman/support/storage.ts";

/** A runtime on a Podman's storage and a state directory of its own, which go with it. */
export async function onPodman(
  open: (stateDir: string) => Promise<Runtime>,
): Promise<{ runtime: Runtime; close: () => Promise<void> }> {
  const storage = makeStorage();
  const stateDir = mkdtempSync(join(tmpdir(), "wpod-"));
  const runtime = await open(stateDir);
  return {
    runtime,
    close: async () => {
      await runtime.close();
      rmSync(stateDir, { recursive: true, force: true });
      storage.remove();
    },
  };
}
