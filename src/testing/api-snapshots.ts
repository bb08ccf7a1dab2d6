import { expect } from "vitest";
import type { CreateSandbox } from "../contracts/sandbox.ts";
import type { ApiContext } from "./api-fixture.ts";
import { askWithHeader, echo } from "./api-secrets.ts";
import { expectFailure } from "./failures.ts";
import { eventually } from "./wait.ts";

const MIB = 1024 ** 2;
const VALUE = "sk-snapshot-0123456789";
const AWS = "aws-snapshot/0123456789";

/** Snapshots of sandboxes, and sandboxes that are restored from them. */
export function testApiSnapshots({ test, fixture, unless }: ApiContext): void {
  const able = { unless: unless("snapshots") };

  test(
    "refuses snapshots where the runtime has none",
    async () => {
      const { api, box } = fixture();
      const { id } = await box();
      await expectFailure(api.snapshots.create(id), "unsupported");
      expect(await api.snapshots.list()).toEqual([]);
    },
    { unless: unless("snapshots") === undefined && "it has some" },
  );

  test(
    "restores a sandbox with its files and every setting, when the original is gone, and shows no secret",
    async () => {
      await using server = await echo();
      await using other = await echo();
      const { api, box, shell } = fixture();
      const at = `127.0.0.1:${server.port}`;
      const hasLimits = unless("limits") === undefined;
      const wanted: CreateSandbox = {
        env: { KEPT: "a b" },
        workdir: "/opt/kept",
        labels: { team: "x" },
        cmd: ["sleep", "100000"],
        timeout: 3600,
        ports: [{ sandbox_port: 8080 }],
        network: { allow: [`127.0.0.1:${other.port}`] },
        secrets: [{ name: "API_TOKEN", hosts: [`http://${at}`], value: VALUE, header: {} }],
        credentials: { aws: { AccessKeyId: "ASIASNAPSHOT", SecretAccessKey: AWS } },
        storage: {
          tmpfs: [{ path: "/scratch", size: "4m" }],
          ...(unless("volumes") ? {} : { volumes: [{ name: "snap-data", mount_path: "/data" }] }),
        },
      };
      const { id } = await box(wanted);
      const get = async (sandbox: string, port: number, header = "X-None: 1") =>
        (await shell(sandbox, askWithHeader, { args: [`http://127.0.0.1:${port}/`, header] })).stdout;
      // What has changed since it was created counts.
      await api.network.set(id, { allow: [at], deny: ["192.0.2.0/24"] });
      if (hasLimits) await api.update(id, { memory: 96 * MIB, cpu: 700_000_000 });
      await shell(
        id,
        "printf %s $API_TOKEN >/opt/placeholder; echo one >/opt/kept/file; echo x >/scratch/gone",
      );
      if (!unless("volumes")) await shell(id, "echo shared >/data/file");
      const before = await api.get(id);

      const made = await api.snapshots.create(id, { name: "first" });
      expect(made).toMatchObject({
        sandbox_id: id,
        name: "first",
        runtime: before.runtime,
        image: before.image,
      });
      expect(made).toMatchObject({ network_mode: "filtered", network: before.network });
      expect(made.size).toBeGreaterThan(0);
      const { snapshots } = api;
      expect(await snapshots.list()).toEqual([made]);
      for (const name of [made.id, made.id.slice(0, 10), "first"])
        expect(await snapshots.get(name)).toEqual(made);
      expect(await api.systemStats()).toMatchObject({ total_snapshots: 1 });
      expect(await api.get(id)).toEqual(before);

      // What changes afterwards does not.
      await api.network.set(id, { allow: ["*"] });
      await api.secrets.put(id, "API_TOKEN", { value: `${VALUE}-later` });
      await shell(id, "echo two >/opt/kept/file");
      await api.remove(id);
      expect(await snapshots.list({ sandbox_id: id })).toEqual([made]);

      const restored = await snapshots.restore("first", { name: "again" });
      const kept = ({ ...info }: Partial<typeof before>) => {
        for (const name of [
          "id",
          "name",
          "created_at",
          "started_at",
          "expires_at",
          "pid",
          "ports",
          "snapshot_id",
        ])
          delete info[name as keyof typeof info];
        return info;
      };
      expect(kept(restored)).toEqual(kept(before));
      expect(restored).toMatchObject({ name: "again", snapshot_id: made.id, status: "running" });
      expect(restored.ports).toMatchObject([{ sandbox_port: 8080, state: "open", address: "127.0.0.1" }]);
      const left = Date.parse(restored.expires_at) - Date.parse(restored.created_at);
      expect(left).toBeGreaterThan(3_500_000);
      expect(left).toBeLessThan(3_700_000);
      if (hasLimits) expect((await api.stats("again")).memory_limit).toBe(96 * MIB);
      const looked = await shell(
        restored.id,
        "echo $KEPT; cat file; ls -A /scratch; cat /data/file 2>/dev/null",
      );
      expect(looked.stdout).toBe(`a b\none\n${unless("volumes") ? "" : "shared\n"}`);
      const check = async (sandbox: string) => {
        // The placeholder that lies in a file stands for the value still.
        await eventually("the way out", async () =>
          (await get(sandbox, server.port, "X-Key: $(cat /opt/placeholder)")).startsWith("200"),
        );
        expect(server.seen.at(-1)).toMatchObject({ authorization: `Bearer ${VALUE}`, "x-key": VALUE });
        expect(await get(sandbox, other.port)).toMatch(/^403 .*no rule allows/);
        expect(await api.network.explain(sandbox, "192.0.2.1", 80)).toMatchObject({
          allowed: false,
          cause: "rule",
        });
      };
      await check(restored.id);
      await api.stop(restored.id, { timeoutMs: 0 });
      await api.start(restored.id);
      await check(restored.id);
      const aws = await shell(
        restored.id,
        `exec perl -MIO::Socket::INET -e 'my ($at) = $ENV{AWS_CONTAINER_CREDENTIALS_FULL_URI} =~ m{//([^/]*)};
          my ($path) = $ENV{AWS_CONTAINER_CREDENTIALS_FULL_URI} =~ m{//[^/]*(/.*)}; my $s = IO::Socket::INET->new(PeerAddr => $at) or die;
          print $s "GET $path HTTP/1.1\\r\\nHost: $at\\r\\nAuthorization: $ENV{AWS_CONTAINER_AUTHORIZATION_TOKEN}\\r\\nConnection: close\\r\\n\\r\\n"; print <$s>'`,
      );
      expect(aws.stdout).toContain(AWS);

      // Of a restored one as well, when what it was restored from is gone.
      const second = await snapshots.create("again");
      expect(second).toMatchObject({ name: "", sandbox_id: restored.id, image: before.image });
      await snapshots.remove("first");
      await expectFailure(snapshots.get(made.id), "snapshot_not_found");
      await api.remove("again");
      const last = await snapshots.restore(second.id, { labels: { team: "y" }, timeout: -1 });
      expect(last).toMatchObject({ labels: { team: "y" }, network: before.network });
      expect(last).not.toHaveProperty("name");
      await check(last.id);
      const inside = await shell(
        last.id,
        `env; cat /proc/*/environ /proc/*/cmdline /run/warren/* 2>/dev/null | tr '\\0' '\\n'; grep -rl -e '${VALUE.slice(0, 11)}[-]0' /opt/kept /opt/placeholder /tmp /run /etc 2>/dev/null`,
      );
      const told = JSON.stringify([inside.stdout, made, second, await snapshots.list(), await api.list()]);
      expect(told).toContain("warren-secret-");
      for (const value of [VALUE, AWS]) expect(told).not.toContain(value);
    },
    { ...able, timeoutMs: 120_000 },
  );

  test(
    "restores no sandbox less confined than it was, beside the original and with the state of that kept",
    async () => {
      const { api, box, shell } = fixture();
      const { snapshots } = api;
      const { id } = await box({ network_mode: "none", readonly_fs: true });
      const port = await api.ports.add(id, { sandbox_port: 8080 });
      if (unless("pause") === undefined) {
        await api.pause(id);
        const paused = await snapshots.create(id, { name: "one" });
        expect(await api.get(id)).toMatchObject({ status: "paused" });
        await snapshots.remove(paused.id);
      }
      await api.stop(id, { timeoutMs: 0 });
      const made = await snapshots.create(id, { name: "one" });
      expect(await api.get(id)).toMatchObject({ status: "stopped" });
      await api.start(id);
      const restored = await snapshots.restore(made.id);
      expect(restored).toMatchObject({ network_mode: "none", readonly_fs: true, status: "running" });
      // The old one has the port still.
      const [other] = restored.ports ?? [];
      expect(other).toMatchObject({ sandbox_port: 8080, state: "open" });
      expect(other?.host_port).not.toBe(port.host_port);
      expect(await api.network.get(restored.id)).toMatchObject({ mode: "none", rules: {} });
      const tried = await shell(restored.id, "echo x >/opt/x; ls /sys/class/net");
      expect(tried.stderr).toMatch(/read-only|permission denied/i);
      expect(tried.stdout.trim()).toMatch(/^(lo)?$/);

      await expectFailure(snapshots.restore(made.id, { name: "Not a name" }), "invalid_request");
      await snapshots.restore(made.id, { name: "taken", timeout: 60 });
      await expectFailure(snapshots.restore(made.id, { name: "taken" }), "name_taken");
      expect(await snapshots.list()).toEqual([made]);
      expect(await api.list()).toHaveLength(3);
    },
    { ...able, timeoutMs: 120_000 },
  );

  test(
    "knows no snapshot that there is not, and none by what fits several",
    async () => {
      const { api, box } = fixture();
      const { snapshots } = api;
      const absent = "snap-aaaaaaaaaaaaaaaa";
      for (const call of [snapshots.get, snapshots.restore, snapshots.remove])
        await expectFailure(call(absent), "snapshot_not_found");
      expect(await snapshots.list({ sandbox_id: "aaaaaaaaaaaaaaaa" })).toEqual([]);
      await expectFailure(snapshots.create("aaaaaaaaaaaaaaaa"), "sandbox_not_found");
      const { id } = await box({ name: "box" });
      await expectFailure(snapshots.create(id, { name: "two\nlines" }), "invalid_request");
      await expectFailure(snapshots.create(id, { name: "x".repeat(129) }), "invalid_request");
      await expectFailure(snapshots.create(id, {}, { signal: AbortSignal.abort() }), "cancelled");
      expect(await snapshots.list()).toEqual([]);
      const both = [
        await snapshots.create("box", { name: "a name" }),
        await snapshots.create(id, { name: "a name" }),
      ];
      const error = await expectFailure(snapshots.restore("a name"), "invalid_request");
      for (const one of both) expect(error.message).toContain(one.id);
      for (const filter of [{}, { sandbox_id: "box" }, { sandbox_id: id.slice(0, 6) }])
        expect(await snapshots.list(filter)).toEqual(both);
    },
    able,
  );
}
