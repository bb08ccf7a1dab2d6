import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { findSubordinateIds } from "../../../src/runtimes/oci/subordinate-ids.ts";

const etc = mkdtempSync(join(tmpdir(), "wsub-"));
afterAll(() => rmSync(etc, { recursive: true }));

const user = { uid: 1000, name: "alice" };

function find(subuid: string, subgid: string) {
  writeFileSync(join(etc, "subuid"), subuid);
  writeFileSync(join(etc, "subgid"), subgid);
  return findSubordinateIds({ etc, user });
}

describe("the subordinate ids of an ordinary user", () => {
  it("are the first range of each file that is large enough, by name or by number", async () => {
    expect(
      await find("bob:100000:65536\nalice:165536:1000\nalice:300000:70000\n", "# none\n1000:400000:65536\n"),
    ).toEqual({
      ids: {
        newuidmap: expect.stringMatching(/^\/.*newuidmap$/),
        newgidmap: expect.stringMatching(/^\/.*newgidmap$/),
        firstUid: 300_000,
        firstGid: 400_000,
        count: 65_536,
      },
    });
  });

  it("are asked for by the command that adds a range which nobody else has", async () => {
    expect(await find("bob:100000:65536\ncarol:165536:65536\nalice:300000:1000\n", "")).toEqual({
      missing: [
        {
          level: "error",
          message: `${etc}/subuid gives user alice only 1000 in one range of the 65536 ids that a sandbox needs`,
          fix: "sudo usermod --add-subuids 231072-296607 alice",
        },
        {
          level: "error",
          message: `${etc}/subgid gives user alice none of the 65536 ids that a sandbox needs`,
          fix: "sudo usermod --add-subgids 100000-165535 alice",
        },
      ],
    });
  });

  it("are none where the files are broken", async () => {
    for (const text of ["alice", "alice:x:65536", "alice:0:65536", "alice:100000:9e99", ":100000:65536"]) {
      expect(await find(text, text), text).toHaveProperty("missing");
    }
  });
});
