/** What a package manager's configuration says of where it fetches from. */
export interface Configured {
  urls: string[];
  /** They take the place of the manager's default hosts, rather than being asked beside them. */
  replaces: boolean;
}

export type ReadConfig = (text: string) => Configured;

/** Longer ones are none that a person wrote. It bounds what a regular expression sees. */
const MAX_LINE = 4096;

/** npmrc: `registry=URL`, and `@scope:registry=URL` beside it. */
export const readNpmrc: ReadConfig = (text) =>
  gather(lines(text), (line) => {
    const [, scope, url = ""] = /^\s*(@[^:=\s]+:)?registry\s*=\s*(\S+)/.exec(line) ?? [];
    return { url: unquoted(url), replaces: url !== "" && scope === undefined };
  });

/** Yarn's, of its first version (`registry "URL"`) and of later ones (`npmRegistryServer: URL`). */
export const readYarnrc: ReadConfig = (text) =>
  gather(lines(text), (line) => {
    const [, scope, url = ""] =
      /^\s*"?(@[^:\s]+:)?(?:registry"?\s|npmRegistryServer:)\s*(\S+)/.exec(line) ?? [];
    const isScoped = scope !== undefined || /^\s/.test(line);
    return { url: unquoted(url), replaces: url !== "" && !isScoped };
  });

/** pip's: `index-url`, and `extra-index-url` and `find-links` beside it, on lines of their own too. */
export const readPipConf: ReadConfig = (text) => {
  let key = "";
  return gather(lines(text), (line) => {
    const [, name, value] = /^([a-z_-]+)\s*[=:]\s*(.*)$/i.exec(line) ?? [];
    if (name !== undefined) key = name.toLowerCase().replaceAll("_", "-");
    else if (!/^\s+\S/.test(line)) key = "";
    const isUrl = ["index-url", "extra-index-url", "find-links"].includes(key);
    return isUrl ? { url: value ?? line, replaces: key === "index-url" } : { url: "" };
  });
};

/** uv's: `index-url`, `extra-index-url` and the tables `[[index]]`. */
export const readUvToml: ReadConfig = (text) =>
  gather(lines(text), (line) => ({
    url: /^\s*(?:(?:default-|extra-)?index-url|url)\s*=\s*(.*)$/.exec(line)?.[1] ?? "",
    replaces: /^\s*(?:(?:default-)?index-url\s*=|default\s*=\s*true)/.test(line),
  }));

/** Cargo's: `registry` and `index` of sources and registries. */
export const readCargoConfig: ReadConfig = (text) =>
  gather(lines(text), (line) => ({
    url: /(?:^|[\s{,])(?:registry|index)\s*=\s*"(?:sparse\+|registry\+)?([^"\s]+)"/.exec(line)?.[1] ?? "",
    replaces: /^\s*replace-with\s*=/.test(line),
  }));

/** Go's list, such as `https://one|https://two,direct`. */
export const readGoProxy: ReadConfig = (text) => ({
  urls: text.split(/[,|]/).map((entry) => entry.trim()),
  replaces: text.trim() !== "",
});

/** Go's: `off`, or a name that is a host as well, or a name, its key and a URL. */
export const readGoSumDb: ReadConfig = (text) => {
  const [name = "", url] = text.trim().split(/\s+/);
  if (name === "") return { urls: [], replaces: false };
  return { urls: name === "off" ? [] : [url ?? `https://${name.split("+")[0]}`], replaces: true };
};

/** A variable's value in what `go env -w` writes. */
export const goVariable =
  (name: string, read: ReadConfig): ReadConfig =>
  (text) =>
    read(
      lines(text)
        .findLast((line) => line.startsWith(`${name}=`))
        ?.slice(name.length + 1) ?? "",
    );

/** Maven's: mirrors and repositories. */
export const readMavenSettings: ReadConfig = (text) =>
  gather(lines(withoutComments(text)), (line) => ({
    url: /<url>\s*([^<\s]+)/.exec(line)?.[1] ?? "",
    // `*`, `external:*` and lists, but for what a list leaves out.
    replaces: /<mirrorOf>(?:[^<]*,)?\s*(?:external:)?(?:\*|central)\s*[,<]/.test(line),
  }));

/** NuGet's: `<add key="…" value="URL" />`, after `<clear />` instead of the default. */
export const readNugetConfig: ReadConfig = (text) =>
  gather(lines(withoutComments(text)), (line) => ({
    url: /\bvalue="(https?:[^"\s]+)"/i.exec(line)?.[1] ?? "",
    replaces: /<clear\s*\/>/i.test(line),
  }));

/** apt's, of both forms. Images have sources of their own, so these come beside the default ones. */
export const readAptSources: ReadConfig = (text) =>
  gather(lines(text), (line) => ({
    url: /^(?:URIs:\s*|deb(?:-src)?\s+(?:\[[^\]]*\]\s+)?)(.*)$/i.exec(line)?.[1] ?? "",
  }));

/** Bundler's mirrors. */
export const readBundleConfig: ReadConfig = (text) =>
  gather(lines(text), (line) => {
    const [, key = "", url = ""] = /^(BUNDLE_MIRROR__\S+?):\s+(\S+)/.exec(line) ?? [];
    return { url: unquoted(url), replaces: /__(?:ALL|HTTPS?:\/\/(?:INDEX__)?RUBYGEMS__ORG)/i.test(key) };
  });

/** gem's `:sources:`, conda's `channels:` and what else is a list of URLs in YAML. */
export const readYamlUrls: ReadConfig = (text) =>
  gather(lines(text), (line) => {
    const [, url = ""] = /^\s*(?:-|channel_alias:)\s+(\S+)/.exec(line) ?? [];
    return { url: unquoted(url), replaces: /:\/\//.test(url) };
  });

/** Composer's: repositories, and whether Packagist is not asked. */
export const readComposerJson: ReadConfig = (text) => {
  const { repositories, config } = object(parse(text));
  const entries = Object.entries(object(repositories ?? object(config).repositories));
  const off = (name: string, value: unknown) => /^packagist(\.org)?$/.test(name) && value === false;
  return {
    urls: entries.map(([, repository]) => String(object(repository).url ?? "")),
    replaces: entries.some(
      ([name, value]) =>
        off(name, value) || Object.entries(object(value)).some(([key, one]) => off(key, one)),
    ),
  };
};

/** URLs in a variable, which take the place of the default. */
export const readUrls: ReadConfig = (text) => ({ urls: text.split(/\s+/), replaces: text.trim() !== "" });

/** URLs in a variable that are asked beside the default. */
export const readMoreUrls: ReadConfig = (text) => ({ urls: text.split(/\s+/), replaces: false });

function gather(
  texts: readonly string[],
  read: (line: string) => { url: string; replaces?: boolean },
): Configured {
  const found = texts.map(read);
  return {
    urls: found.flatMap(({ url }) => url.split(/\s+/).map(unquoted)).filter((url) => url !== ""),
    replaces: found.some(({ replaces }) => replaces === true),
  };
}

/** Without those that are comments in all of these formats, or too long. */
function lines(text: string): string[] {
  return text.split(/\r?\n/).filter((line) => line.length <= MAX_LINE && !/^\s*[#;]/.test(line));
}

function unquoted(text: string): string {
  return text.replace(/^["'[]+/, "").replace(/["'\],]+$/, "");
}

function withoutComments(text: string): string {
  let kept = "";
  for (let at = 0; ; ) {
    const begin = text.indexOf("<!--", at);
    if (begin < 0) return kept + text.slice(at);
    kept += text.slice(at, begin);
    const end = text.indexOf("-->", begin);
    if (end < 0) return kept;
    at = end + 3;
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function object(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}

/** npm's own table of settings, for the registry that it asks where none is configured. */
export const readNpmDefinitions: ReadConfig = (text) => {
  const url =
    /\bregistry(?:: new Definition\(|',\s*\{|['"], new Definition\()[^}]*?\bdefault: [`'"](https?:[^`'"]+)/.exec(
      text,
    )?.[1];
  return { urls: url === undefined ? [] : [url], replaces: false };
};

/** pip's own: `PackageIndex("URL", file_storage_domain="HOST")`. */
export const readPipIndex: ReadConfig = (text) => {
  const [, url, files] =
    /^PyPI = PackageIndex\(\s*"(https:[^"]+)",\s*file_storage_domain="([^"]+)"/m.exec(text) ?? [];
  return { urls: url === undefined ? [] : [url, `https://${files}`], replaces: false };
};
