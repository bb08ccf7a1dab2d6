import { describe, expect, it } from "vitest";
import { newSandboxId, resolveSandbox } from "../../src/engine/ids.ts";

it("makes ids that fit DNS labels and never repeat", () => {
  const ids = Array.from({ length: 500 }, newSandboxId);
  for (const id of ids) expect(id).toMatch(/^[a-z][a-z2-7]{15}$/);
  expect(new Set(ids).size).toBe(ids.length);
});

describe("resolving", () => {
  const records = [
    { id: "abcdaaaaaaaaaaaa", name: "web" },
    { id: "abcdbbbbbbbbbbbb", name: undefined },
    { id: "zzzzbbbbbbbbbbbb", name: "abcdb" },
  ];
  const byId = new Map(records.map((record) => [record.id, record]));
  const find = (wanted: string) => resolveSandbox(wanted, byId).id;

  it("takes a full id, a name, or a unique prefix of at least four characters", () => {
    expect(find("abcdaaaaaaaaaaaa")).toBe("abcdaaaaaaaaaaaa");
    expect(find("web")).toBe("abcdaaaaaaaaaaaa");
    expect(find("zzzz")).toBe("zzzzbbbbbbbbbbbb");
  });
  it("prefers a name to a prefix", () => {
    expect(find("abcdb")).toBe("zzzzbbbbbbbbbbbb");
  });
  it("names the candidates of an ambiguous prefix", () => {
    expect(() => find("abcd")).toThrow(
      expect.objectContaining({
        code: "invalid_request",
        message: expect.stringMatching(/abcdaaaaaaaaaaaa, abcdbbbbbbbbbbbb/),
      }),
    );
  });
  it.each(["zzz", "", "nope", "../x", "a\nb", "x".repeat(10_000), "__proto__"])(
    "does not find %j",
    (wanted) => {
      expect(() => find(wanted)).toThrow(expect.objectContaining({ code: "sandbox_not_found" }));
    },
  );
  it("quotes and shortens what was asked for", () => {
    const message = (wanted: string) => {
      try {
        return find(wanted);
      } catch (error) {
        return (error as Error).message;
      }
    };
    expect(message("a\nb")).not.toContain("\n");
    expect(message("x".repeat(10_000)).length).toBeLessThan(200);
  });
});
