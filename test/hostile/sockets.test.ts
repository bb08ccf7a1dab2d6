import { readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { afterAll, beforeAll, expect, it } from "vitest";
import { run } from "../../src/lib/run.ts";
import { ATTACKS, type Lab, openLab, outputOf } from "./support/lab.ts";
import { isNoOtherTests } from "./support/of-tests.ts";

let lab: Lab;

beforeAll(async () => {
  lab = await openLab({ programs: ["walk", "cat"] });
});
afterAll(() => lab?.[Symbol.asyncDispose]());

const linesOf = (text: string) => text.split("\n").filter(Boolean);

it.each(["dir", "host"])("no socket lies anywhere inside the image `%s`", async (kind) => {
  const id = await lab.sandbox(kind === "host" ? { image: "host" } : {});
  if (kind === "host") await copyAttacks(id);
  // "/" with everything mounted below it, processes' own directories of /proc apart.
  const found = linesOf(outputOf(await lab.attack(id, "walk", ["sockets", "/"], { timeout: 100 })));
  expect(found.filter(isNoOtherTests)).toEqual([]);
  await lab.engine.remove(id);
});

async function copyAttacks(id: string): Promise<void> {
  for (const name of ["walk", "cat"]) {
    await lab.engine.files.write(id, `${ATTACKS}/${name}`, await readFile(lab.program(name)), {
      mode: 0o755,
    });
  }
}

it("the guest's socket is found and answers on the host, where there is no guard", async () => {
  const id = await lab.sandbox();
  const found = linesOf(outputOf(await lab.onHost("walk", ["sockets", lab.stateDir])));
  expect(found).toEqual([expect.stringMatching(new RegExp(`^connects .*${id}.*guest\\.sock$`))]);
  await lab.engine.remove(id);
});

it("the state directory is closed to other users of the host", async () => {
  const id = await lab.sandbox();
  // setpriv's 65534 is nobody, whoever made the sandbox.
  const args = ["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "find", lab.stateDir];
  const result = await run("setpriv", args, { cwd: "/" });
  expect(result.stdout.toString()).not.toContain("guest.sock");
  expect(result.stderr.toString()).toContain("Permission denied");
  await lab.engine.remove(id);
});

it("names of the kernel's list of Unix sockets lead nowhere", async () => {
  const id = await lab.sandbox();
  const list = outputOf(await lab.attack(id, "cat", ["/proc/net/unix"]));
  const names = linesOf(list)
    .slice(1)
    .map((line) => line.trim().split(/\s+/)[7])
    .filter((name) => name !== undefined);
  expect(names).toEqual([]);
  for (const cwd of ["/", "/.warren", "/tmp"]) {
    const walked = await lab.attack(id, "walk", ["sockets", "guest.sock"], { workdir: cwd });
    expect(walked.stdout).toBe("");
  }
  await lab.engine.remove(id);
});

it("an abstract socket of the host can't be connected to from inside, and can from outside", async () => {
  const name = `${lab.ownerId}-abstract`;
  const server = createServer((socket) => socket.end());
  await new Promise<void>((resolve) => server.listen(`\0${name}`, resolve));
  const id = await lab.sandbox();
  expect(outputOf(await lab.attack(id, "walk", ["abstract", name]))).toBe(`refuses ${name}\n`);
  expect(outputOf(await lab.onHost("walk", ["abstract", name]))).toBe(`connects ${name}\n`);
  server.close();
  await lab.engine.remove(id);
});
