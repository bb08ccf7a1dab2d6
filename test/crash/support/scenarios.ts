import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { EngineProcess } from "./engine-process.ts";
import { DATA, MARK, RULED } from "./invariant.ts";
import type { Actions } from "./world.ts";

const MIB = 1024 ** 2;

export interface ScenarioContext {
  engine: EngineProcess;
  /** A directory for images and the like. */
  dir: string;
  stateDir: string;
}

/** What a client does until the engine dies; rejects when it has. */
export type Scenario = (actions: Actions, context: ScenarioContext) => Promise<void>;

/** A main command whose lines fill more than its log's files, a few at a time. */
const main = [
  "sh",
  "-c",
  `i=0; while [ $i -lt 4 ]; do echo "line $i ${"x".repeat(1500)}"; i=$((i+1)); sleep 0.02; done; exec sleep 600`,
];

export const scenarios = {
  /** Everything that can happen to one sandbox. */
  async life(actions) {
    const { api } = actions;
    await actions.create("box", { cmd: main, memory: 64 * MIB });
    for await (const _ of api.logs("box", { until: "line 3 " }));
    await actions.write("box", `${DATA}/a`, "first");
    await actions.write("box", `${DATA}/a`, "second".repeat(20_000));
    await api.exec("box", { cmd: ["sh", "-c", `sleep ${MARK} & sleep 0.02; kill $!`], timeout: 20 });
    await actions.limit("box", 96 * MIB);
    await actions.pause("box");
    await actions.resume("box");
    await actions.stop("box");
    await actions.start("box");
    await actions.remove("box");
  },
  async tar(actions, { dir }) {
    const tar = join(dir, `image-${process.hrtime.bigint()}.tar`);
    copyFileSync(tarImage(dir), tar);
    await actions.create("tar", { image: tar });
    await actions.remove("tar");
  },
  async oci(actions, { dir }) {
    await actions.create("oci", { image: `oci:${ociImage(dir)}` });
    await actions.remove("oci");
  },
  /** A start that fails, since the image is away, and one that works again. */
  async failure(actions, { dir }) {
    const image = join(dir, "image");
    const away = `${image}-away`;
    if (existsSync(away)) renameSync(away, image);
    rootDirectory(image);
    await actions.create("failing", { image });
    await actions.stop("failing");
    renameSync(image, away);
    await actions.failToStart("failing");
    renameSync(away, image);
    await actions.start("failing");
    await actions.remove("failing");
  },
  /** What a START leaves that was cut short between the container's start and its pid's record. */
  async unrecorded(actions, { stateDir }) {
    const { id } = await actions.create("unrecorded");
    rmSync(join(stateDir, "oci/sandboxes", id, "guest.pid"));
    await actions.remove("unrecorded");
  },
  /** A volume and a directory of the host in a sandbox. */
  async volumes(actions, { dir }) {
    const name = `data-${process.hrtime.bigint()}`;
    const bound = join(dir, "bound");
    mkdirSync(bound, { recursive: true });
    await actions.api.volumes.create({ name });
    await actions.create("mounted", {
      storage: {
        volumes: [{ name, mount_path: "/volume" }],
        binds: [{ source: bound, mount_path: "/volume/bound" }],
      },
    });
    await actions.stop("mounted");
    await actions.start("mounted");
    await actions.remove("mounted");
    await actions.api.volumes.remove(name);
  },
  /** A sandbox with secrets, one that comes later and one that goes. First, since the vault's key is made once. */
  async secrets(actions) {
    const { secrets } = actions.api;
    const [hosts, value] = [["api.test"], "a-secret-of-the-scenario"];
    await actions.create("keeper", { secrets: [{ name: "FIRST", hosts, value }] });
    await secrets.put("keeper", "SECOND", { hosts, value });
    await secrets.remove("keeper", "FIRST");
    await actions.stop("keeper");
    await actions.start("keeper");
    await actions.remove("keeper");
  },
  /** One of a running sandbox, one of a paused one that was made of the first, and neither of them at the end. */
  async snapshots(actions) {
    const { snapshots } = actions.api;
    for (const { id } of await snapshots.list()) await snapshots.remove(id);
    const secrets = [{ name: "FIRST", hosts: ["api.test"], value: "a-secret-of-the-scenario" }];
    await actions.create("original", { secrets });
    await actions.write("original", `${DATA}/a`, "kept");
    const first = await snapshots.create("original");
    await actions.restore("restored", "original", first.id);
    await actions.remove("original");
    await actions.pause("restored");
    const second = await snapshots.create("restored");
    await snapshots.remove(first.id);
    await actions.resume("restored");
    await actions.remove("restored");
    await snapshots.remove(second.id);
  },
  /** A sandbox with open network, which has processes on the host beside its own, and rules that change. */
  async network(actions) {
    await actions.create("open", { network_mode: "open" });
    await actions.rule("open", { allow: [RULED] });
    await actions.rule("open", {});
    await actions.pause("open");
    await actions.resume("open");
    await actions.stop("open");
    await actions.start("open");
    await actions.remove("open");
  },
  async close(actions, { engine }) {
    await actions.create("kept");
    engine.kill("SIGTERM");
    await engine.ended;
  },
} satisfies Record<string, Scenario>;
export type ScenarioName = keyof typeof scenarios;
export const scenarioNames = Object.keys(scenarios) as ScenarioName[];

function rootDirectory(path: string): string {
  if (existsSync(join(path, "bin/sh"))) return path;
  mkdirSync(join(path, "bin"), { recursive: true });
  copyFileSync("/bin/busybox", join(path, "bin/busybox"));
  for (const name of ["sh", "echo", "sleep"]) copyFileSync("/bin/busybox", join(path, "bin", name));
  return path;
}

function tarImage(dir: string): string {
  const path = join(dir, "image.tar");
  if (!existsSync(path)) {
    execFileSync("tar", ["-C", rootDirectory(join(dir, "root")), "-cf", path, "."]);
  }
  return path;
}

/** One that is not there yet, whatever earlier engines have kept. */
function ociImage(dir: string): string {
  const layout = join(dir, "layout");
  const base = `${layout}:base`;
  if (!existsSync(layout)) makeLayout(layout, base, join(dir, "bundle"));
  const tag = `tag-${process.hrtime.bigint()}`;
  umoci("config", "--image", base, "--tag", tag, "--config.label", `tag=${tag}`);
  return `${layout}:${tag}`;
}

function umoci(...args: string[]): void {
  execFileSync("umoci", args, { stdio: "pipe" });
}

function makeLayout(layout: string, image: string, bundle: string): void {
  umoci("init", "--layout", layout);
  umoci("new", "--image", image);
  umoci("unpack", "--image", image, bundle);
  rootDirectory(join(bundle, "rootfs"));
  umoci("repack", "--image", image, bundle);
}
