/**
 * Where developers get code and tools, and where agents find their models: what the preset `dev` has beside the registries.
 * HTTPS alone, and SSH where a host offers git over it.
 */
export const codeHosts: readonly string[] = [
  "github.com:443",
  "github.com:22",
  "ssh.github.com:443",
  "api.github.com:443",
  // Archives, raw files, releases and LFS of GitHub, to which it redirects.
  "codeload.github.com:443",
  "raw.githubusercontent.com:443",
  "objects.githubusercontent.com:443",
  "release-assets.githubusercontent.com:443",
  "github-cloud.githubusercontent.com:443",
  "media.githubusercontent.com:443",
  "gitlab.com:443",
  "gitlab.com:22",
  "bitbucket.org:443",
  "bitbucket.org:22",
  "codeberg.org:443",
  "codeberg.org:22",
  "git.sr.ht:443",
  "git.sr.ht:22",
  "nodejs.org:443",
  "go.dev:443",
  "dl.google.com:443",
  "sh.rustup.rs:443",
  "astral.sh:443",
  "api.anthropic.com:443",
  "api.openai.com:443",
];
