import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeImageTar } from "../../containers/support/image.ts";

/** Name of the test image in a storage of the tests' own. */
export const testImage = "localhost/warren-test:1";

/** Podman's storage, of this test file alone. */
export interface TestStorage {
  dir: string;
  /** Runs Podman on it, and gives what it prints. */
  podman(...args: string[]): string;
  /** Removes it with all that is in it. */
  remove(): void;
}

/**
 * Makes an empty storage and has every Podman of this process use it, by its environment. With the test image, unless told
 * otherwise.
 */
export function makeStorage({ image = true }: { image?: boolean } = {}): TestStorage {
  const dir = mkdtempSync(join(tmpdir(), "wpods-"));
  const conf = (name: string, lines: string[]): string => {
    writeFileSync(join(dir, name), `${lines.join("\n")}\n`);
    return join(dir, name);
  };
  const env: Record<string, string> = {
    CONTAINERS_STORAGE_CONF: conf("storage.conf", [
      "[storage]",
      'driver = "overlay"',
      `graphroot = "${dir}/graph"`,
      // An ordinary user's.
      `rootless_storage_path = "${dir}/graph"`,
      `runroot = "${dir}/run"`,
    ]),
    CONTAINERS_CONF: conf("containers.conf", [
      "[engine]",
      `tmp_dir = "${dir}/libpod"`,
      "[network]",
      `network_config_dir = "${dir}/networks"`,
    ]),
  };
  for (const name of ["graph", "run", "libpod", "networks"]) mkdirSync(join(dir, name), { mode: 0o700 });
  const before = Object.keys(env).map((name) => [name, process.env[name]] as const);
  Object.assign(process.env, env);
  // Named twice: without them, Podman would take the machine's own storage.
  const roots = ["--root", join(dir, "graph"), "--runroot", join(dir, "run")];
  const podman = (...args: string[]) =>
    execFileSync("podman", [...roots, ...args], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...env },
    });
  const remove = () => {
    // Its files may have owners that only Podman can be: it takes them away. What its monitors still clean up is in the way.
    for (let tries = 20; ; tries--) {
      try {
        podman("system", "reset", "--force");
        break;
      } catch (error) {
        if (tries === 0) throw error;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 250);
      }
    }
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
    rmSync(dir, { recursive: true, force: true });
    const left = readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .filter((line) => line.includes(dir));
    if (left.length > 0) throw new Error(`mounts are left: ${left.join("\n")}`);
  };
  if (image) {
    const tar = join(dir, "image.tar");
    try {
      writeImageTar(tar);
      podman("import", "--quiet", tar, testImage);
      rmSync(tar);
    } catch (error) {
      remove();
      throw error;
    }
  }
  return { dir, podman, remove };
}
