import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { openEngine } from "../../../src/engine/engine.ts";
import { silentLogger } from "../../../src/lib/log.ts";
import { openPodmanRuntime } from "../../../src/runtimes/podman/runtime.ts";
import { buildContext, tinyImage } from "../../../src/testing/build-context.ts";
import { type OpenNetworkPlaces, testOpenNetwork } from "../../../src/testing/index.ts";
import { openTestRuntime } from "../../runtimes/oci/support/open.ts";
import { makeStorage, testImage } from "../../runtimes/podman/support/storage.ts";

const places: OpenNetworkPlaces = {
  ...JSON.parse(process.env.WARREN_LAB ?? "{}"),
  fromHost: (host, port) =>
    new Promise<boolean>((resolve) => {
      const socket = connect({ host, port, timeout: 2000 });
      const end = (reached: boolean) => {
        socket.destroy();
        resolve(reached);
      };
      socket.once("connect", () => end(true));
      socket.once("error", () => end(false));
      socket.once("timeout", () => end(false));
    }),
};

const hasCgroups =
  existsSync(`/sys/fs/cgroup/warren-${process.getuid?.()}`) ||
  existsSync(`/sys/fs/cgroup/memory/warren-${process.getuid?.()}`);

for (const [program, uplink] of [
  ["crun", "slirp4netns"],
  ["runc", "pasta"],
] as const) {
  testOpenNetwork(
    `rootless oci with ${program} and ${uplink}`,
    async () => {
      const test = await openTestRuntime(program, ".", { uplink });
      const engine = await openEngine({
        stateDir: test.stateDir,
        runtimes: { oci: test.runtime },
        defaultRuntime: "oci",
        log: silentLogger,
      });
      return {
        api: engine,
        places,
        close: async () => {
          await engine.close();
          await test.reopen();
          await test.close();
        },
      };
    },
    { defaults: hasCgroups ? {} : { unlimited: true }, lacks: hasCgroups ? [] : ["pause"] },
  );
}

it("gives a build of an ordinary user open network, without what is internal", {
  timeout: 120_000,
}, async () => {
  const test = await openTestRuntime("crun");
  try {
    const hosts = [places.outside[1], places.named];
    const dials = hosts.map(
      (host) => `busybox nc -w 2 ${host} ${places.port} </dev/null || busybox echo shut`,
    );
    const said: string[] = [];
    await test.runtime.images.store?.build({
      tag: "wtest-rootless/network:1",
      context: buildContext({ dockerfile: `${tinyImage}RUN ${dials.join("; ")}\n` }),
      network: "open",
      reach: { rules: [], internal: ["10.0.0.0/8"] },
      onProgress: (progress) => void ("line" in progress && said.push(progress.line)),
    });
    expect(said.filter((line) => line === "hello" || line === "shut")).toEqual(["hello", "shut"]);
  } finally {
    await test.close();
  }
});

testOpenNetwork(
  "rootless podman",
  async () => {
    const storage = makeStorage();
    const stateDir = mkdtempSync(join(tmpdir(), "wpod-"));
    const engine = await openEngine({
      stateDir,
      runtimes: { podman: await openPodmanRuntime({ stateDir, ownerId: "t1", log: silentLogger }) },
      defaultRuntime: "podman",
      log: silentLogger,
    });
    return {
      api: engine,
      places: { ...places, outside6: undefined },
      close: async () => {
        await engine.close();
        rmSync(stateDir, { recursive: true, force: true });
        storage.remove();
      },
    };
  },
  { defaults: { image: testImage, unlimited: true }, lacks: ["pause"] },
);
