import { readdirSync, readFileSync } from "node:fs";
import { expect } from "vitest";
import type { ImageProgress } from "../contracts/images.ts";
import { buildContext, tinyImage } from "./build-context.ts";
import { expectFailure } from "./failures.ts";
import { runInside } from "./guest-tools.ts";
import type { RuntimeContext } from "./runtime-fixture.ts";
import { eventually } from "./wait.ts";

const BUILD_TIMEOUT_MS = 180_000;

/** Images by name: built, listed, used and removed. */
export function testImageStore({ test, fixture, unless }: RuntimeContext): void {
  const options = { unless: unless("imageStore"), timeoutMs: BUILD_TIMEOUT_MS };

  test(
    "builds an image, tells how it goes, and runs it",
    async () => {
      const { runtime, box, images, imageName } = fixture();
      const tag = imageName();
      const lines: string[] = [];
      const dockerfile = `${tinyImage}RUN busybox echo built $((40+2)) && busybox echo made >/made && busybox chown 33:44 /made
WORKDIR /project
CMD ["/bin/busybox", "sleep", "600"]
`;
      expect(await images().inspect(tag)).toBeUndefined();
      const built = await images().build({
        tag,
        context: buildContext({ dockerfile }),
        onProgress: keep(lines),
      });
      expect(built).toMatchObject({ reference: tag, runtime: runtime.name });
      expect(built.id).toMatch(/^sha256:[0-9a-f]{64}$/);
      expect(Math.abs(Date.parse(built.created_at ?? "") - Date.now())).toBeLessThan(600_000);
      expect(lines).toContainEqual(expect.stringContaining("built 42"));
      expect(await images().inspect(tag)).toEqual(built);
      expect(await images().list(tag)).toEqual([built]);
      expect(await images().list(`${tag}x`)).toEqual([]);

      const image = await runtime.images.ensure(tag);
      expect(image).toMatchObject({ workdir: "/project", cmd: ["/bin/busybox", "sleep", "600"] });
      expect(image.env.GREETING).toBe("hello there");
      const { id, guest } = await box({ image, env: image.env });
      const said = await runInside(guest, [
        "/bin/busybox",
        "sh",
        "-c",
        "busybox cat /made; busybox stat -c %u:%g /made",
      ]);
      expect(said.stdout).toBe("made\n33:44\n");
      await expectFailure(images().remove(tag), "in_use");
      await runtime.stop(id, { timeoutMs: 0 });
      await expectFailure(images().remove(tag), "in_use");
      await runtime.remove(id);
      for (let i = 0; i < 2; i++) await images().remove(tag);
      expect(await images().inspect(tag)).toBeUndefined();
      expect(await images().list(tag)).toEqual([]);
    },
    options,
  );

  test(
    "builds up to a stage, with arguments, from another file, on an image that was built here",
    async () => {
      const { runtime, box, images, imageName } = fixture();
      const [first, second] = [imageName(), imageName()];
      await images().build({ tag: first, context: buildContext({ dockerfile: tinyImage }) });
      const lines: string[] = [];
      const file = `ARG BASE=nothing
FROM \${BASE} AS wanted
ARG WORD
RUN busybox echo "the word is $WORD" && busybox echo "$WORD" >/word
FROM wanted
RUN busybox false
`;
      await images().build({
        tag: second,
        context: buildContext({ "deep/er/file": file }),
        dockerfile: "deep/er/file",
        buildArgs: { BASE: first, WORD: "two words; $(id)" },
        target: "wanted",
        noCache: true,
        onProgress: keep(lines),
      });
      expect(lines).toContainEqual(expect.stringMatching(/^(?!.*busybox).*the word is two words; \$\(id\)$/));
      const { guest } = await box({ image: await runtime.images.ensure(second) });
      expect((await runInside(guest, ["/bin/busybox", "cat", "/word"])).stdout).toBe("two words; $(id)\n");
    },
    options,
  );

  test(
    "tells the last lines of a build that fails, as text",
    async () => {
      const { images, imageName } = fixture();
      const tag = imageName();
      const script = `i=0; while [ $i -lt 200 ]; do i=$((i+1)); busybox echo "count $i;"; done
        busybox printf '\\033[31mred\\033[0m \\007\\033]0;title\\007bell\\n'; exit 3`;
      const dockerfile = `${tinyImage}COPY script /script\nRUN sh /script\n`;
      const lines: string[] = [];
      const failing = images().build({
        tag,
        context: buildContext({ dockerfile, script }),
        onProgress: keep(lines),
      });
      const error = await expectFailure(failing, "image_build_failed");
      expect(error.message).toContain("count 200;");
      expect(error.message).not.toContain("count 149;");
      expect(error.message).toContain("red bell");
      expect(lines.filter((line) => line.includes("count ")).length).toBeGreaterThanOrEqual(200);
      for (const line of [...lines, ...error.message.split("\n")]) expect(line).not.toMatch(/(?!\t)\p{Cc}/u);
      expect(await images().inspect(tag)).toBeUndefined();
    },
    options,
  );

  test(
    "ends a build that is given up, with all that it runs",
    async () => {
      const { images, imageName } = fixture();
      const tag = imageName();
      const mark = `31${Math.floor(Math.random() * 1e6)}`;
      const stop = new AbortController();
      const dockerfile = `${tinyImage}RUN busybox echo begun && (busybox setsid busybox sleep ${mark} & busybox sleep ${mark})\n`;
      const lines: string[] = [];
      const building = images().build({
        tag,
        context: buildContext({ dockerfile }),
        signal: stop.signal,
        onProgress: keep(lines),
      });
      building.catch(() => {});
      try {
        await eventually("the build to run", () => sleepers(mark).length >= 2, BUILD_TIMEOUT_MS / 2);
        stop.abort();
        await expectFailure(building, "cancelled");
        await eventually("all of it to end", () => sleepers(mark).length === 0);
        expect(await images().inspect(tag)).toBeUndefined();
      } finally {
        // Where a build can't be ended, as a deviation says, what it runs is ours to end all the same.
        for (const pid of sleepers(mark)) kill(Number(pid));
      }
    },
    options,
  );

  test(
    "refuses a build without a file to build from, and names that are none",
    async () => {
      const { images, imageName } = fixture();
      const tag = imageName();
      const none = images().build({ tag, context: buildContext({ other: "x" }) });
      await expectFailure(none, "image_build_failed", "invalid_request");
      const outside = images().build({
        tag,
        context: buildContext({ dockerfile: tinyImage }),
        dockerfile: "../Dockerfile",
      });
      await expectFailure(outside, "image_build_failed", "invalid_request");
      const unnamed = images().build({
        tag: "no name at all",
        context: buildContext({ dockerfile: tinyImage }),
      });
      await expectFailure(unnamed, "image_invalid", "invalid_request");
      await images().remove(tag);
      expect(await images().inspect(tag)).toBeUndefined();
    },
    options,
  );
}

const keep = (lines: string[]) => (progress: ImageProgress) => {
  if ("line" in progress) lines.push(progress.line);
};

/** Processes of the host that sleep that long. */
function sleepers(seconds: string): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").endsWith(`sleep\0${seconds}\0`);
      } catch {
        return false;
      }
    });
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended, or is somebody's whom we can't signal.
  }
}
