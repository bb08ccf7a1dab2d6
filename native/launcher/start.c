#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cgroups.h"
#include "mounts.h"
#include "program.h"
#include "relay.h"
#include "serve.h"
#include "sys.h"
#include "uplink.h"
#include "userns.h"

enum { GUEST_FD = 3, BACKLOG = 1024, OPTIONS_SIZE = 4096, PARKED_FD = 32, ROOT_READONLY = 1, MAX_HANDED = 2 + MAX_HANDED_GROUPS };

struct start {
  char *dir, *stage, *workdir;
  uint32_t id_base, id_count;
  char **lowers, **sources, **targets, **argv, **env;
  uint32_t *bind_flags;
  // In the order in which they are mounted: parents first.
  struct outside *outside;
  uint32_t outside_count;
  uint32_t timeout_ms, open_files, core_bytes, flags;
  // See cgroups.h.
  struct groups groups;
  // Not empty: the guest can't have a listening socket of the host's, and a relay in these cgroups hands connections over.
  char **relay_groups;
  // cgroup.procs files of groups that the container runtime is started in.
  char **enter;
  struct uplink uplink;
  // The sandbox's directory: every path of ours below is relative to it, so none is long or needs quoting.
  int dir_fd;
};

static void parse_outside(struct start *s, struct in *in) {
  char **sources = in_list(in), **targets = in_list(in);
  uint32_t count = in_u32(in);
  if (count > MAX_LIST) in->bad = true;
  if (in->bad) return;
  s->outside = must_alloc((count + 1) * sizeof *s->outside);
  for (uint32_t i = 0; i < count && !in->bad; i++) {
    if (!sources[i] || !targets[i] || targets[i][0] != '/') {
      in->bad = true;
      return;
    }
    s->outside[i] = (struct outside){sources[i], targets[i], in_u32(in)};
    if (!(s->outside[i].flags & OUTSIDE_TMPFS) && sources[i][0] != '/') in->bad = true;
  }
  // What is bad may have come to its end before it had as many as it says.
  if (!in->bad && (sources[count] || targets[count])) in->bad = true;
  s->outside_count = count;
}

static void parse(struct start *s, struct in *in) {
  s->dir = in_str(in);
  s->stage = in_str(in);
  s->workdir = in_str(in);
  s->id_base = in_u32(in);
  s->id_count = in_u32(in);
  s->lowers = in_list(in);
  s->sources = in_list(in);
  s->targets = in_list(in);
  uint32_t binds = in_u32(in);
  if (binds > MAX_LIST) in->bad = true;
  if (in->bad) binds = 0;
  s->bind_flags = must_alloc((binds + 1) * sizeof *s->bind_flags);
  for (uint32_t i = 0; i < binds; i++) {
    if (!s->sources[i] || !s->targets[i]) {
      in->bad = true;
      break;
    }
    s->bind_flags[i] = in_u32(in);
  }
  if (!in->bad && (s->sources[binds] || s->targets[binds])) in->bad = true;
  s->argv = in_list(in);
  s->env = in_list(in);
  s->timeout_ms = in_u32(in);
  s->open_files = in_u32(in);
  s->core_bytes = in_u32(in);
  parse_groups(&s->groups, in);
  s->flags = in_u32(in);
  s->relay_groups = in_list(in);
  s->enter = in_list(in);
  parse_outside(s, in);
  s->uplink.argv = in_list(in);
  s->uplink.groups = in_list(in);
  s->uplink.flags = in_u32(in);
  // gVisor has a network stack of its own, which has no such device.
  if (!in->bad && s->uplink.argv[0] && (s->uplink.argv[0][0] != '/' || s->relay_groups[0])) in->bad = true;
  // An ordinary user's own id is 0.
  if (in->bad || in->left || s->dir[0] != '/' || s->stage[0] != '/' || !s->argv[0] || !s->lowers[0] ||
      (!s->id_base && !is_rootless()) || !s->id_count)
    answer_error(EBADMSG, "START");
}

static int open_at(int dir, const char *name, int flags) {
  int fd = openat(dir, name, flags | O_CLOEXEC);
  if (fd < 0) answer_error(errno, "could not open %s", name);
  return fd;
}

static void make_dir(const char *name, mode_t mode) {
  if (mkdir(name, mode) < 0 && errno != EEXIST) answer_error(errno, "could not make the directory %s", name);
}

// The overlay of all lower directories and the sandbox's own upper one, at `<stage>/rootfs`. Descriptors of both.
static int mount_root(const struct start *s, int *stage_fd) {
  // An ordinary user may not map the ids of the host's file systems: what is on disk belongs to the mapped ids already.
  int idmap = is_rootless() ? -1 : make_idmap_with_root(s->id_base, s->id_count);
  char options[OPTIONS_SIZE] = "lowerdir=";
  size_t used = strlen(options);
  make_dir("m", 0700);
  for (uint32_t i = 0; s->lowers[i]; i++) {
    char place[24];
    snprintf(place, sizeof place, "m/%u", i);
    make_dir(place, 0700);
    mount_idmapped(s->lowers[i], s->dir_fd, place, idmap);
    used += (size_t)snprintf(options + used, sizeof options - used, "%s%s", i ? ":" : "", place);
    if (used >= sizeof options - 128) answer_error(E2BIG, "too many layers");
  }
  mount_idmapped("fs", s->dir_fd, "fs", idmap);
  if (idmap >= 0) close(idmap);
  // Without root's capabilities overlayfs keeps its marks in user attributes, and then follows no redirections.
  snprintf(options + used, sizeof options - used, ",upperdir=fs/upper,workdir=fs/work,%s,index=off,metacopy=off",
           is_rootless() ? "userxattr" : "redirect_dir=on");

  // The stage hides a directory of the host, in this mount namespace only. Container runtimes set a root filesystem up as
  // the sandbox's own (mapped) root, who could not reach one below directories that are closed to others.
  if (mount("warren", s->stage, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=0711") < 0)
    answer_error(errno, "could not mount a tmpfs at %s", s->stage);
  int stage = open_at(AT_FDCWD, s->stage, O_RDONLY | O_DIRECTORY);
  if (mkdirat(stage, "rootfs", 0755) < 0) answer_error(errno, "could not make the stage");
  char target[4200];
  snprintf(target, sizeof target, "%s/rootfs", s->stage);
  if (mount("overlay", target, "overlay", MS_NODEV, options) < 0) answer_error(errno, "could not mount the overlay");
  int root = open_at(stage, "rootfs", O_RDONLY | O_DIRECTORY);
  *stage_fd = stage;
  return root;
}

// A container runtime in another user namespace could not do this: there a mount's nodev can't be taken off, which it tries.
static void make_root_readonly(const struct start *s) {
  char target[4200];
  snprintf(target, sizeof target, "%s/rootfs", s->stage);
  if (mount(NULL, target, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NODEV, NULL) < 0)
    answer_error(errno, "could not make the root filesystem read-only");
}

static int make_socket(void) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) answer_error(errno, "socket");
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "guest.sock"};
  unlink(address.sun_path);
  mode_t before = umask(0177);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, BACKLOG) < 0)
    answer_error(errno, "could not make the guest's socket");
  umask(before);
  return fd;
}

// What the guest inherits, from GUEST_FD on. False with errno.
static bool hand_over(const int *fds, size_t count) {
  int parked[MAX_HANDED];
  for (size_t i = 0; i < count; i++) {
    parked[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, PARKED_FD);
    if (parked[i] < 0) return false;
  }
  for (size_t i = 0; i < count; i++)
    if (dup2(parked[i], GUEST_FD + (int)i) < 0) return false;
  return true;
}

// Where connections are relayed, `handed` is the one socket that they go through, and becomes stdin.
static _Noreturn void exec_runtime(const struct start *s, const int *handed, size_t handed_count, int report) {
  setsid();
  reset_signals();
  // Nobody would record what it has started.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  int error = 0;
  bool is_relayed = s->relay_groups[0];
  // Nothing else of ours may be inherited by what runs inside, so stdio is /dev/null: the runtime says what went wrong in its
  // log file.
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0 || dup2(is_relayed ? handed[0] : null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0) error = errno;
  int keep = fcntl(report, F_DUPFD_CLOEXEC, PARKED_FD);
  if (!error && !is_relayed && !hand_over(handed, handed_count)) error = errno;
  struct rlimit files = {s->open_files, s->open_files}, core = {s->core_bytes, s->core_bytes};
  if (!error && (setrlimit(RLIMIT_NOFILE, &files) < 0 || setrlimit(RLIMIT_CORE, &core) < 0)) error = errno;
  if (!error && chdir("/") < 0) error = errno;
  for (char **file = s->enter; !error && *file; file++) {
    int fd = open(*file, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1) error = errno;
    close(fd);
  }
  // What runs inside gets nothing from groups that we happen to be in.
  if (!error && setgroups(0, NULL) < 0) error = errno;
  if (!error) {
    exec_program(s->argv, s->env);
    error = errno;
  }
  write(keep, &error, sizeof error);
  _exit(127);
}

// Runs the container runtime, which detaches, and waits for it. Its exit status; -1 when it took too long.
static int run_runtime(const struct start *s, const int *handed, size_t handed_count) {
  int report[2];
  if (pipe2(report, O_CLOEXEC) < 0) answer_error(errno, "pipe");
  pid_t pid = fork();
  if (pid < 0) answer_error(errno, "fork");
  if (pid == 0) exec_runtime(s, handed, handed_count, report[1]);
  close(report[1]);
  int error = 0;
  if (read(report[0], &error, sizeof error) == sizeof error) {
    waitpid(pid, NULL, 0);
    answer_error(error, "%s", s->argv[0]);
  }
  close(report[0]);
  int pidfd = sys_pidfd_open(pid);
  if (pidfd < 0) answer_error(errno, "pidfd_open");
  struct pollfd p = {pidfd, POLLIN, 0};
  int64_t deadline = now_ms() + s->timeout_ms;
  int ready;
  do {
    int64_t left = deadline - now_ms();
    ready = poll(&p, 1, left > 0 ? (int)left : 0);
  } while (ready < 0 && errno == EINTR);
  if (ready <= 0) kill(-pid, SIGKILL);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return ready <= 0 ? -1 : status;
}

// From the runtime's pid file to `guest.pid`, which also holds the start time: "PID START\n".
static pid_t record_pid(uint64_t *start) {
  char text[64];
  if (read_file("runtime.pid", text, sizeof text) <= 0) return 0;
  pid_t pid = (pid_t)strtol(text, NULL, 10);
  if (pid <= 1) return 0;
  *start = process_start(pid);
  int fd = open("guest.pid.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) answer_error(errno, "could not write guest.pid");
  int n = snprintf(text, sizeof text, "%d %llu\n", (int)pid, (unsigned long long)*start);
  if (write(fd, text, (size_t)n) != n || rename("guest.pid.new", "guest.pid") < 0)
    answer_error(errno, "could not write guest.pid");
  close(fd);
  unlink("runtime.pid");
  return pid;
}

// The root filesystem and all that is mounted in it before the container runtime comes.
static void mount_all(const struct start *s) {
  int stage;
  int root = mount_root(s, &stage);
  for (uint32_t i = 0; s->sources[i]; i++)
    if (!(s->bind_flags[i] & BIND_LAST)) bind_readonly(s->sources[i], root, s->targets[i], s->bind_flags[i]);
  int idmap = s->outside_count > 0 && !is_rootless() ? make_idmap(s->id_base, s->id_count) : -1;
  for (uint32_t i = 0; i < s->outside_count; i++) mount_outside(&s->outside[i], root, stage, i, s->id_base, idmap);
  if (idmap >= 0) close(idmap);
  // What can't be made stays missing: the guest says so to whoever needs it.
  int workdir = make_path(root, s->workdir, s->id_base, false);
  if (workdir >= 0) close(workdir);
  for (uint32_t i = 0; s->sources[i]; i++)
    if (s->bind_flags[i] & BIND_LAST) bind_readonly(s->sources[i], root, s->targets[i], s->bind_flags[i]);
  close(root);
  close(stage);
}

void op_start(struct in *in) {
  struct start s = {0};
  parse(&s, in);
  if (s.timeout_ms > 3600000) answer_error(EBADMSG, "START");
  enter_private_mounts();
  s.dir_fd = open_at(AT_FDCWD, s.dir, O_RDONLY | O_DIRECTORY);
  if (fchdir(s.dir_fd) < 0) answer_error(errno, "chdir");
  unlink("runtime.pid");
  mount_all(&s);
  if (s.flags & ROOT_READONLY) make_root_readonly(&s);
  int listener = make_socket();
  int status, network = -1;
  if (s.relay_groups[0]) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) answer_error(errno, "socketpair");
    status = run_runtime(&s, &pair[1], 1);
    close(pair[1]);
    if (status == 0) start_relay(listener, pair[0], s.relay_groups, s.id_base);
  } else {
    mount_userns(s.id_base, s.id_count, "userns");
    int handed[MAX_HANDED] = {listener};
    size_t handed_count = 1 + make_groups(&s.groups, handed + 1);
    if (s.uplink.argv[0]) {
      int ends[2];
      if (pipe2(ends, O_CLOEXEC) < 0) answer_error(errno, "pipe");
      handed[handed_count++] = ends[0];
      network = ends[1];
    }
    status = run_runtime(&s, handed, handed_count);
    if (network >= 0) close(handed[handed_count - 1]);
  }
  struct out out = {0};
  uint64_t start = 0;
  pid_t pid = status == 0 ? record_pid(&start) : 0;
  if (pid != 0) settle_groups(&s.groups);
  if (pid != 0 && network >= 0) start_uplink(&s.uplink, pid, s.id_base, network);
  out_u32(&out, (uint32_t)pid);
  out_u64(&out, start);
  // How the runtime ended: 0 exit code, 1 signal, 2 it took too long.
  out_u8(&out, status == -1 ? 2 : WIFSIGNALED(status) ? 1 : 0);
  out_u32(&out, status == -1 ? 0 : (uint32_t)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)));
  answer_ok(&out);
}
