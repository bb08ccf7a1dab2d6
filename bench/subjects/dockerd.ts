import { join } from "node:path";
import { type Dockerd, startDockerd } from "../../test/runtimes/docker/support/dockerd.ts";
import { which } from "./process.ts";

/** One Docker daemon of this run's own, for all who measure with it. */
export interface SharedDockerd {
  unavailable(): string | undefined;
  /** Started by the first who asks. */
  get(scratch: string): Promise<Dockerd>;
  /** To be called once by each who asked; with the last it ends. */
  release(): Promise<void>;
}

export function sharedDockerd(): SharedDockerd {
  let daemon: Promise<Dockerd> | undefined;
  let users = 0;
  return {
    unavailable() {
      const missing = ["docker", "dockerd"].find((name) => !which(name));
      return missing && `${missing} is not installed`;
    },
    get(scratch) {
      users++;
      daemon ??= startDockerd({ home: join(scratch, "docker") });
      return daemon;
    },
    async release() {
      if (users === 0 || --users > 0) return;
      await (await daemon)?.end();
      daemon = undefined;
    },
  };
}
