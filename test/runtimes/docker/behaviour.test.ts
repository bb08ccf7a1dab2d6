import { readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { expectFailure } from "../../../src/testing/failures.ts";
import { readAll } from "../../../src/testing/guest-tools.ts";
import { sh } from "../common/support/boxes.ts";
import { buildImage, type DockerRig, IMAGE, openDockerRig } from "./support/open.ts";

let rig: DockerRig;
beforeAll(async () => {
  rig = await openDockerRig();
});
afterEach(() => rig.fixture.clean());
afterAll(() => rig.close());

describe("what others do to a sandbox's container", () => {
  const docker = (...args: string[]) => rig.daemon.cli(...args);

  it("is seen: stopped, started, paused", async () => {
    const { runtime, fixture } = rig;
    const { id, pid, guest } = await fixture.box();
    const container = rig.containerOf(id);
    await docker("pause", container);
    expect(await runtime.inspect(id)).toEqual({ id, state: "paused", pid });
    await runtime.resume(id);
    await guest.hello();
    await docker("pause", container);
    await runtime.stop(id, { timeoutMs: 1000 });
    expect(await runtime.inspect(id)).toEqual({ id, state: "stopped" });
    await runtime.start(id);
    await docker("stop", "-t", "1", container);
    expect(await runtime.inspect(id)).toEqual({ id, state: "stopped" });
    await expectFailure(runtime.connect(id), "guest_failed");
    await docker("start", container);
    expect(await runtime.inspect(id)).toMatchObject({ state: "running" });
    await runtime.stop(id, { timeoutMs: 1000 });
    await runtime.start(id);
    await guest.hello();
    await docker("kill", container);
    expect((await runtime.list()).find((sandbox) => sandbox.id === id)?.state).toBe("stopped");
    await runtime.remove(id);
    expect(await rig.leftovers(id)).toEqual([]);
  });

  it("is seen: removed, and what is left can be removed", async () => {
    const { runtime, fixture } = rig;
    const { id } = await fixture.box();
    await docker("rm", "-f", rig.containerOf(id));
    expect((await runtime.inspect(id))?.state).not.toBe("running");
    await expectFailure(runtime.connect(id), "guest_failed");
    await expectFailure(runtime.stats(id), "sandbox_wrong_state");
    await expectFailure(runtime.pause(id), "sandbox_wrong_state");
    await expectFailure(runtime.start(id), "runtime_failed", "sandbox_not_found");
    await runtime.stop(id, { timeoutMs: 1000 });
    await runtime.remove(id);
    expect(await runtime.inspect(id)).toBeUndefined();
    expect(await rig.leftovers(id)).toEqual([]);
  });

  it("and containers that aren't ours are neither listed nor touched", async () => {
    const { runtime } = rig;
    const others = [
      await docker(
        "create",
        "--label",
        "warren.owner=another",
        "--label",
        "warren.id=tqqqqqqqqqqqqqqq",
        IMAGE,
        "true",
      ),
      await docker("create", IMAGE, "true"),
      // As an image may have it, whose maker saw one of ours.
      await docker("create", "--label", `warren.owner=${rig.ownerId}`, IMAGE, "true"),
    ];
    expect(await runtime.list()).toEqual([]);
    await runtime.remove("tqqqqqqqqqqqqqqq");
    await runtime.close();
    await rig.reopen();
    for (const id of others) expect(await docker("rm", id)).toBe(id);
  });
});

describe("what a daemon refuses", () => {
  it("leaves nothing, and is told in its own words", async () => {
    const { runtime, fixture } = rig;
    const wanted = await fixture.spec();
    const cases: [
      patch: object,
      code: "invalid_request" | "image_not_found" | "unsupported",
      words: RegExp,
    ][] = [
      [{ limits: { memoryBytes: 1 << 20, cpuNano: 0, pids: 0 } }, "invalid_request", /minimum memory limit/i],
      [{ image: { ...wanted.image, id: `sha256:${"0".repeat(64)}` } }, "image_not_found", /no such image/i],
      [{ image: { ...wanted.image, id: "a\u001b[2Jb" } }, "invalid_request", /invalid reference format/],
      [{ workdir: "relative" }, "invalid_request", /needs to be an absolute path/i],
      [{ hostname: "-x" }, "invalid_request", /host name/],
      [{ hostname: "a\u0000b" }, "invalid_request", /host name/],
      [{ hostname: "x".repeat(300) }, "invalid_request", /host name/],
      [{ env: { "A=B": "x" } }, "invalid_request", /environment/],
      [{ cmd: ["a\0b"] }, "invalid_request", /NUL/],
    ];
    for (const [patch, code, words] of cases) {
      const error = await expectFailure(runtime.create({ ...wanted, ...patch }), code);
      expect(error.message).toMatch(words);
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
      expect(error.message).not.toMatch(/[\u0000-\u001f\u007f]/);
      expect(await rig.leftovers(wanted.id)).toEqual([]);
    }
    for (const id of ["../x", "a/b", "a\nb", "", "x".repeat(200), "-a"]) {
      await expectFailure(runtime.create({ ...wanted, id }), "invalid_request");
      await expect(runtime.start(id)).rejects.toThrow();
    }
    expect(readdirSync(join(rig.stateDir, "docker/sandboxes"))).toEqual([]);
  });

  it("is a second sandbox of the same id, and the first stays", async () => {
    const { runtime, fixture } = rig;
    const { id, spec, guest } = await fixture.box();
    await expectFailure(runtime.create(spec), "sandbox_wrong_state");
    await guest.hello();
    expect(await runtime.inspect(id)).toMatchObject({ state: "running" });
  });
});

describe("images with more than files", () => {
  const boxOf = async (dockerfile: string, files = {}) => {
    const name = await buildImage(
      rig.daemon,
      `trap-${Math.random().toString(36).slice(2)}:1`,
      dockerfile,
      files,
    );
    const image = await rig.runtime.images.ensure(name);
    return { image, ...(await rig.fixture.box({ image, env: image.env })) };
  };

  it("get their anonymous volumes removed with the sandbox", async () => {
    const box = await boxOf(`FROM ${IMAGE}\nRUN mkdir /data && echo first >/data/file\nVOLUME /data /more\n`);
    expect(await sh(box, "cat /data/file; echo second >/data/file; touch /more/x")).toBe("first\n");
    expect((await rig.daemon.cli("volume", "ls", "-q")).split("\n")).toHaveLength(2);
    await rig.runtime.stop(box.id, { timeoutMs: 0 });
    await rig.runtime.start(box.id);
    expect(await sh(box, "cat /data/file")).toBe("second\n");
    await rig.runtime.remove(box.id);
    expect(await rig.leftovers(box.id)).toEqual([]);
  });

  it("have a tmpfs where one is asked for, volume or not", async () => {
    const name = await buildImage(rig.daemon, "volumes:1", `FROM ${IMAGE}\nVOLUME /data\n`);
    const image = await rig.runtime.images.ensure(name);
    const tmpfs = [{ path: "/data", sizeBytes: 1 << 20, readonly: false, exec: true, mode: 0o700 }];
    const box = await rig.fixture.box({ image, tmpfs });
    expect(await sh(box, "grep -c ' /data tmpfs ' /proc/mounts; stat -c %a /data")).toBe("1\n700\n");
  });

  it("run neither their ENTRYPOINT, CMD nor HEALTHCHECK, and not as their USER", async () => {
    const box = await boxOf(
      `FROM ${IMAGE}\nUSER dev\nWORKDIR /home/dev\nENV FROM_IMAGE=yes\nSTOPSIGNAL SIGKILL\n` +
        'HEALTHCHECK --interval=1s CMD echo sick >/tmp/sick\nENTRYPOINT ["sh", "-c", "echo bad >/tmp/bad"]\nCMD ["x"]\n' +
        "ONBUILD RUN false\n",
    );
    expect(box.image).toMatchObject({
      user: "dev",
      workdir: "/home/dev",
      env: { FROM_IMAGE: "yes" },
      cmd: ["sh", "-c", "echo bad >/tmp/bad", "x"],
    });
    expect(await sh(box, "id -u; cat /proc/1/comm; sleep 2; ls /tmp")).toBe("0\nguest\n");
    const state = await rig.daemon.cli(
      "inspect",
      "-f",
      "{{.State.Health}} {{.HostConfig.RestartPolicy.Name}}",
      rig.containerOf(box.id),
    );
    expect(state).toBe("<nil> no");
  });

  it("need no shell, and no file at all", async () => {
    const box = await boxOf("FROM scratch\nCOPY busybox /bin/busybox\n", { busybox: "/bin/busybox" });
    const session = await box.guest.spawn({ argv: ["/bin/busybox", "echo", "hello"], env: {} });
    let said = "";
    for await (const { data } of session.output) said += Buffer.from(data).toString();
    expect(said).toBe("hello\n");
    const empty = await boxOf("FROM scratch\nLABEL a=b\n");
    await empty.guest.writeFile("/note", Buffer.from("x"));
    expect((await readAll((await empty.guest.readFile("/note")).body)).toString()).toBe("x");
  });
});
