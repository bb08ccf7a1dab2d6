#define _GNU_SOURCE
#include "uplink.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cgroups.h"
#include "filter.h"
#include "sys.h"
#include "userns.h"
#include "wire.h"

enum {
  NETNS_FD = STDIN_FILENO,
  READY_FD = 3,
  EXIT_FD,
  FIRST_FREE_FD = 32,
  READY_MS = 20000,
  // The stack opens a socket for each connection of the sandbox, which can have 4096 (native/guest/guard.c), and pasta a timer too.
  OPEN_FILES = 9216,
  MAX_WORDS = 4096, // of what the stack says
  // One that has served for a while is started again as often as it ends.
  MAX_STARTS = 5,
  WHILE_MS = 60000,
};

struct keeper {
  const struct uplink *uplink;
  int userns, netns, guest, words;
};

struct report {
  int error;
  char words[512];
};

// A node that every user may open, where this machine's is root's alone; in the worker's mount namespace only.
static void open_tun_to_all(void) {
  struct stat st;
  if (is_rootless() || (stat("/dev/net/tun", &st) == 0 && (st.st_mode & 0006) == 0006)) return;
  if (mount("warren", "/dev/net", "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,mode=0755") < 0 ||
      mknod("/dev/net/tun", S_IFCHR, makedev(10, 200)) < 0 || chmod("/dev/net/tun", 0666) < 0)
    answer_error(errno, "could not make /dev/net/tun");
}

static int open_namespace(pid_t pid, const char *name) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/%s", (int)pid, name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) answer_error(errno, "could not open %s", path);
  return fd;
}

static int drop_capabilities(void) {
  struct {
    uint32_t version;
    int pid;
  } head = {0x20080522, 0};
  struct {
    uint32_t effective, permitted, inheritable;
  } none[2] = {{0}};
  return (int)syscall(SYS_capset, &head, none);
}

static int become(uint32_t owner) {
  struct rlimit files = {OPEN_FILES, OPEN_FILES}, words = {MAX_WORDS, MAX_WORDS}, hard;
  if (getrlimit(RLIMIT_NOFILE, &hard) == 0 && hard.rlim_max < OPEN_FILES) files = (struct rlimit){hard.rlim_max, hard.rlim_max};
  if (setrlimit(RLIMIT_NOFILE, &files) < 0 || setrlimit(RLIMIT_FSIZE, &words) < 0) return -1;
  if (setgroups(0, NULL) < 0 || setresgid(owner, owner, owner) < 0 || setresuid(owner, owner, owner) < 0) return -1;
  return drop_capabilities() < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -1 : 0;
}

// Into the sandbox's user namespace, which belongs to the keeper's id, as its root: what the stack needs for a moment counts
// there only.
static bool enter_sandbox(int userns) {
  return setns(userns, CLONE_NEWUSER) == 0 && setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0;
}

// pasta binds the port that a sandbox sends from, on all of the machine's addresses, and for sharing: whoever bound it last would get
// what is for others, sandboxes and programs of the machine. So no stack may share one.
static _Noreturn void exec_stack(const struct keeper *k, pid_t keeper, int ready, int until) {
  static char *env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
  // What it says beyond MAX_WORDS is lost.
  signal(SIGXFSZ, SIG_IGN);
  int out = k->uplink->flags & UPLINK_READY_AT_STDOUT ? ready : open("/dev/null", O_RDWR | O_CLOEXEC);
  if (out >= 0 && dup2(k->netns, NETNS_FD) >= 0 && dup2(out, 1) == 1 && dup2(k->words, 2) == 2 && dup2(ready, READY_FD) >= 0 &&
      dup2(until, EXIT_FD) >= 0 && enter_sandbox(k->userns) && share_no_ports()) {
    close_from(EXIT_FD + 1);
    // A stack that knows of no EXIT_FD ends by this, which a change of credentials would take away.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == keeper) execve(k->uplink->argv[0], k->uplink->argv, env);
  }
  dprintf(2, "%s: %s\n", k->uplink->argv[0], strerror(errno));
  _exit(127);
}

// A pipe whose ends are above those that the stack gets.
static int make_pipe(int *ends) {
  int low[2];
  if (pipe2(low, O_CLOEXEC) < 0) return -1;
  for (int i = 0; i < 2; i++) {
    ends[i] = fcntl(low[i], F_DUPFD_CLOEXEC, FIRST_FREE_FD);
    close(low[i]);
  }
  return ends[0] < 0 || ends[1] < 0 ? -1 : 0;
}

// The running stack's pid, with `*pidfd`; 0 when it did not come to be ready. It ends with `*hold`.
static pid_t start_stack(const struct keeper *k, int *pidfd, int *hold) {
  int ready[2], until[2];
  if (make_pipe(ready) < 0 || make_pipe(until) < 0) return 0;
  ftruncate(k->words, 0);
  lseek(k->words, 0, SEEK_SET);
  pid_t keeper = getpid(), pid = fork();
  if (pid == 0) exec_stack(k, keeper, ready[1], until[0]);
  close(ready[1]);
  close(until[0]);
  *hold = until[1];
  struct pollfd p = {ready[0], POLLIN, 0};
  char byte;
  int ways;
  do ways = pid < 0 ? 0 : poll(&p, 1, READY_MS);
  while (ways < 0 && errno == EINTR);
  bool is_ready = ways > 0 && read(ready[0], &byte, 1) == 1;
  close(ready[0]);
  *pidfd = is_ready ? sys_pidfd_open(pid) : -1;
  if (*pidfd >= 0) return pid;
  close(*hold);
  if (pid > 0) {
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
  }
  return 0;
}

static void end_stack(pid_t pid, int pidfd, int hold) {
  close(hold);
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
  close(pidfd);
}

static _Noreturn void keep(const struct keeper *k, pid_t pid, int pidfd, int hold) {
  int64_t since = now_ms();
  for (int starts = 1;;) {
    struct pollfd p[] = {{k->guest, POLLIN, 0}, {pidfd, POLLIN, 0}};
    if (poll(p, 2, -1) < 0) continue;
    if (p[0].revents) {
      end_stack(pid, pidfd, hold);
      _exit(0);
    }
    if (!p[1].revents) continue;
    end_stack(pid, pidfd, hold);
    if (now_ms() - since > WHILE_MS) {
      since = now_ms();
      starts = 0;
    }
    // The guest sees our end, and ends the sandbox.
    if (++starts > MAX_STARTS || !(pid = start_stack(k, &pidfd, &hold))) _exit(1);
  }
}

static void read_words(int file, char *text, size_t size) {
  ssize_t n = pread(file, text, size - 1, 0);
  text[n > 0 ? n : 0] = 0;
  for (size_t end = strlen(text); end > 0 && text[end - 1] == '\n';) text[--end] = 0;
  for (char *at = text; *at; at++)
    if (*at < ' ' || *at > '~') *at = *at == '\n' ? ';' : '?';
}

static _Noreturn void run_keeper(struct keeper *k, uint32_t owner, int notify, int report) {
  setsid();
  reset_signals();
  prctl(PR_SET_NAME, "warren-uplink");
  struct report r = {0};
  int pidfd = -1, hold = -1;
  pid_t pid = 0;
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0) r.error = errno;
  if (!r.error && k->uplink->groups[0]) r.error = join_groups(k->uplink->groups);
  if (!r.error && become(owner) < 0) r.error = errno;
  if (!r.error && !(pid = start_stack(k, &pidfd, &hold))) {
    r.error = EIO;
    read_words(k->words, r.words, sizeof r.words);
  }
  if (!r.error && write(notify, "n", 1) != 1) r.error = errno;
  if (write(report, &r, sizeof r) != sizeof r || r.error) _exit(1);
  close(report);
  keep(k, pid, pidfd, hold);
}

// So that whoever ends the sandbox can wait for it: `uplink.pid`, as `guest.pid`.
static void record(pid_t pid) {
  char text[64];
  int n = snprintf(text, sizeof text, "%d %llu\n", (int)pid, (unsigned long long)process_start(pid));
  int fd = open("uplink.pid.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0 || write(fd, text, (size_t)n) != n || rename("uplink.pid.new", "uplink.pid") < 0)
    answer_error(errno, "could not write uplink.pid");
  close(fd);
}

// Leaves exactly these descriptors, from FIRST_FREE_FD on, and 0 to 2: the worker's own are waited for by others.
static int keep_only(int *const *kept, size_t count) {
  enum { PARKED_FD = 128 };
  for (size_t i = 0; i < count; i++)
    if ((*kept[i] = fcntl(*kept[i], F_DUPFD_CLOEXEC, PARKED_FD)) < 0) return -1;
  for (size_t i = 0; i < count; i++)
    if ((*kept[i] = dup3(*kept[i], FIRST_FREE_FD + (int)i, O_CLOEXEC)) < 0) return -1;
  for (int fd = 3; fd < FIRST_FREE_FD; fd++) close(fd);
  close_from(FIRST_FREE_FD + (int)count);
  return 0;
}

void start_uplink(const struct uplink *u, pid_t guest, uint32_t owner, int notify) {
  open_tun_to_all();
  struct keeper k = {u, open_namespace(guest, "user"), open_namespace(guest, "net"), sys_pidfd_open(guest),
                     sys_memfd_create("words")};
  int report[2];
  if (k.guest < 0 || k.words < 0 || pipe2(report, O_CLOEXEC) < 0) answer_error(errno, "could not start the sandbox's network");
  pid_t pid = fork();
  if (pid < 0) answer_error(errno, "fork");
  if (pid == 0) {
    int *kept[] = {&k.userns, &k.netns, &k.guest, &k.words, &notify, &report[1]};
    if (keep_only(kept, sizeof kept / sizeof *kept) < 0) _exit(1);
    run_keeper(&k, owner, notify, report[1]);
  }
  close(report[1]);
  record(pid);
  struct report r = {.error = EIO};
  if (read(report[0], &r, sizeof r) != sizeof r || r.error)
    answer_error(r.error, "could not start the sandbox's network%s%s", r.words[0] ? ": " : "", r.words);
  close(report[0]);
}
