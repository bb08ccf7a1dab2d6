import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { SnapshotStore } from "../../../src/contracts/runtime.ts";
import { podmanCapabilities } from "../../../src/runtimes/podman/capabilities.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { noLimits } from "../../../src/testing/guest-tools.ts";
import { testRuntime } from "../../../src/testing/index.ts";
import type { Deviation } from "../../../src/testing/suite.ts";
import { imageUsers } from "../../runtimes/containers/support/image.ts";
import { openPodmanRig, type PodmanRig } from "../../runtimes/podman/support/open.ts";
import { makeStorage, type TestStorage, testImage } from "../../runtimes/podman/support/storage.ts";
import { testSecurityInside } from "../../runtimes/support/security.ts";

// What the machine delegates to this user, which the runtime must find out by itself.
const limits = podmanCapabilities.limits.filter((limit) => process.env.WARREN_TEST_LIMITS?.includes(limit));
const canPause = process.env.WARREN_TEST_LIMITS !== undefined;

const cannotHold: Deviation = {
  reason: "a rootless Podman on cgroup v1 can't hold still what runs; what is stopped it can keep",
  tests: [
    "keeps a root filesystem as it was at one instant, and nothing of what is mounted in it",
    "outlives its sandbox, and sandboxes that are made of it outlive it",
    "leaves nothing of a snapshot that fails or is given up",
  ],
};

let storage: TestStorage;
beforeAll(() => {
  storage = makeStorage();
});
afterAll(() => storage.remove());

testRuntime(
  "rootless podman",
  async () => {
    const rig = await openPodmanRig({ storage });
    return { runtime: rig.runtime, close: rig.close };
  },
  {
    image: testImage,
    lacks: [
      "directory",
      ...(["memory", "cpu", "pids"] as const).filter((limit) => !limits.includes(limit)),
      ...(canPause ? [] : (["pause"] as const)),
    ],
    deviations: canPause ? [] : [cannotHold],
  },
);

describe("rootless podman", () => {
  let rig: PodmanRig;
  let project: string;
  const me = process.getuid?.() ?? 0;
  const at = (name: string) => join(project, name);
  beforeAll(async () => {
    rig = await openPodmanRig({ storage });
    project = mkdtempSync(join(tmpdir(), "wproject-"));
    writeFileSync(at("source"), "mine");
  });
  afterAll(async () => {
    await rig.close();
    rmSync(project, { recursive: true });
  });

  /** What a sandbox whose commands are this user does in the project, and to whom it belongs then. */
  const work = async (user: string | undefined, name: string): Promise<string> => {
    const spec = {
      mounts: [{ type: "bind" as const, source: project, target: "/project", readonly: false }],
    };
    const box = await rig.box({ ...spec, ...(user === undefined ? {} : { user }) });
    const script = `cd /project && cat source && echo x >>source && mkdir ${name} && echo made >${name}/file && id -u`;
    const said = await box.sh(script, user);
    for (const path of [name, `${name}/file`, "source"]) expect(statSync(at(path)).uid, path).toBe(me);
    writeFileSync(at("source"), "mine");
    writeFileSync(at(`${name}/file`), "changed outside");
    expect(await box.sh(`cat /project/${name}/file`, user)).toBe("changed outside");
    await rig.runtime.remove(box.id);
    return said.replace("mine", "");
  };

  it("leaves what root inside makes in a bound project to its owner", async () => {
    expect(await work(undefined, "by-root")).toBe("0\n");
    expect(await work("0", "by-zero")).toBe("0\n");
    expect(await work("root", "by-name-of-root")).toBe("0\n");
  });

  it("leaves what another user inside makes there to its owner", async () => {
    expect(await work("4321", "by-number")).toBe("4321\n");
    expect(await work("4321:99", "by-numbers")).toBe("4321\n");
    expect(await work("dev", "by-name")).toBe(`${imageUsers.dev.uid}\n`);
    expect(statSync(at("by-name")).gid).toBe(process.getgid?.());
  });

  it("keeps in a snapshot whose each file is, whoever root inside is here and there", async () => {
    const { runtime } = rig;
    const snapshots = runtime.snapshots as SnapshotStore;
    const mounts = [{ type: "bind" as const, source: project, target: "/project", readonly: false }];
    const mapped = { mounts, user: "dev" };
    const made = await rig.box(mapped);
    await made.sh("mkdir /opt/of && touch /opt/of/root /opt/of/dev && chown dev:dev /opt/of/dev", "0");
    if (!canPause) {
      const error = await expectFailure(snapshots.create(made.id, "snap-1"), "unsupported");
      expect(error.hint).toContain(`warren stop ${made.id}`);
      expect(await made.sh("echo fine")).toBe("fine\n");
    }
    await runtime.stop(made.id, { timeoutMs: 0 });
    const { image } = await snapshots.create(made.id, "snap-1");
    await runtime.remove(made.id);
    for (const spec of [{ image }, { image, ...mapped }]) {
      const box = await rig.box(spec);
      expect(await box.sh("cd /opt/of && stat -c '%n %u:%g' *")).toBe(
        `dev ${imageUsers.dev.uid}:${imageUsers.dev.gid}\nroot 0:0\n`,
      );
      await box.sh("chown root /opt/of/dev && rm -r /opt/of", "0");
      await runtime.remove(box.id);
    }
    await snapshots.remove("snap-1");
    expect(await snapshots.list()).toEqual([]);
  });

  it("refuses a user that the image has not, and leaves nothing", async () => {
    const mounts = [{ type: "bind" as const, source: project, target: "/project", readonly: false }];
    await expectFailure(rig.box({ user: "nobody-knows", mounts }), "invalid_request");
    expect(await rig.runtime.list()).toEqual([]);
    expect(storage.podman("ps", "--all", "--quiet")).toBe("");
  });

  it("keeps root inside from being root outside", async () => {
    const { id, pid, sh } = await rig.box();
    expect(rig.runtime.capabilities.userNamespace).toBe(true);
    expect((await sh("cat /proc/self/uid_map")).trim().split(/\s+/).slice(0, 3)).toEqual([
      "0",
      String(me),
      "1",
    ]);
    expect(statSync(`/proc/${pid}`).uid).toBe(me);
    await rig.runtime.remove(id);
  });

  it("removes what a sandbox left among the files of the engine as users that we are not", async () => {
    const { id, sh } = await rig.box();
    await sh(
      "mkdir -p /.warren/run/a/b && chown -R dev /.warren/run/a && chmod 700 /.warren/run/a /.warren/run/a/b",
    );
    await rig.runtime.stop(id, { timeoutMs: 0 });
    await rig.runtime.start(id);
    await rig.runtime.remove(id);
    expect(await rig.runtime.list()).toEqual([]);
  });

  const enforced = limits.length > 0 ? " [not possible here: they are enforced]" : "";
  it.skipIf(enforced !== "")(
    `refuses limits where they can't be enforced, with the reason${enforced}`,
    async () => {
      const { capabilities } = rig.runtime;
      expect(capabilities.limits).toEqual([]);
      expect(capabilities.limitsMissing?.fix).toMatch(/cgroup|Delegate/);
      const error = await expectFailure(rig.box({ limits: { ...noLimits, pids: 10 } }), "unsupported");
      expect(error.message).toContain(capabilities.limitsMissing?.why);
      expect(error.hint).toContain(capabilities.limitsMissing?.fix);
      expect(await rig.runtime.list()).toEqual([]);
      const { findings } = await rig.runtime.probe();
      expect(findings).toContainEqual(
        expect.objectContaining({ level: "warning", message: capabilities.limitsMissing?.why }),
      );
    },
  );

  it("tells what it is", async () => {
    const report = await rig.runtime.probe();
    expect(report).toMatchObject({ runtime: "podman", usable: true });
    expect(report.findings[0]?.message).toMatch(/rootless.*overlay/);
  });
});

describe("security of a sandbox in rootless podman", () => {
  let rig: PodmanRig;
  let box: Awaited<ReturnType<PodmanRig["box"]>>;
  beforeAll(async () => {
    rig = await openPodmanRig({ storage });
    box = await rig.box();
  });
  afterAll(() => rig.close());
  testSecurityInside(() => box, "dev");
});
