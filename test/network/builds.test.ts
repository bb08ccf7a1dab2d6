import { afterAll, beforeAll, expect, it } from "vitest";
import { buildContext, tinyImage } from "../../src/testing/build-context.ts";
import { type Lab, makeLab } from "./support/lab.ts";
import { type LabEngine, serveInLab } from "./support/serve.ts";

let lab: Lab;
let engine: LabEngine;
beforeAll(async () => {
  lab = await makeLab();
  engine = await serveInLab(lab, ["--runtime", "oci"]);
});
afterAll(async () => {
  await engine.close();
  await lab.end();
});

const tag = "wtest-network/build:1";

it("gives the steps of a build the outside by address and by name, and nothing internal, and keeps it so", async () => {
  const { outside, internal, hostLoopback, port } = lab.places;
  const hosts = [...outside, ...internal, ...hostLoopback];
  const dial = (host: string) =>
    `busybox echo '${host}' $(busybox nc -w 2 '${host}' ${port} </dev/null || busybox echo shut)`;
  // Steps may make user namespaces, in which they have all capabilities, but not over the network that they are in.
  const undo = "busybox unshare -U -r busybox ip link set tap0 down || busybox echo refused";
  const dockerfile = `${tinyImage}RUN ${[undo, ...hosts.map(dial)].join("; ")}\n`;
  const said: string[] = [];
  await engine.api.images.build({ tag, network: "open", no_cache: true }, buildContext({ dockerfile }), {
    onProgress: (progress) => {
      if ("line" in progress) said.push(progress.line);
    },
  });
  await engine.api.images.remove(tag);
  expect(said.filter((line) => line.endsWith(" hello"))).toEqual(outside.map((host) => `${host} hello`));
  expect(said.filter((line) => line.endsWith(" shut"))).toHaveLength(hosts.length - outside.length);
  expect(said).toContain("refused");
});
