// The guest: the first process of a sandbox. docs/wire/guest.md is what it must do.
//
//   main.c       PID 1: accepts connections, reaps, starts the main command, shuts down
//   serve.c      one forked process per connection: reads the request, answers it
//   spawn.c      the SPAWN request and the main command: launch.c starts a command, supervise.c and input.c look
//                after it, tree.c kills all that it started
//   group.c      the cgroups whose limits hold for commands, and not for the guest
//   mainlog.c    what the main command wrote last, and the LOGS request
//   relay.c      the one process for all connections that the host makes to programs inside (DIAL, dial.c) and that it takes
//                from them (ACCEPT, accept.c); it waits in loop.c
//   service.c    what programs inside reach of the host's by a socket (LISTEN)
//   guard.c      open network: what of it can't be reached; nftables.c speaks to the kernel
//   denied.c     tells the host what that denied
//   dgram.c      datagrams of a published UDP port
//   capture.c netlink.c dns.c nameserver.c   what programs that know of no way out connect to, and look up, comes to us
//   mux.c        no part of PID 1: many connections over one stream, for hosts that its socket is out of reach of
//   files.c path.c write.c remove.c watch.c users.c frame.c   what their names say
#ifndef WARREN_GUEST_H
#define WARREN_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifndef WARREN_VERSION
#define WARREN_VERSION "0"
#endif
#define PROTOCOL 1
enum { FEATURE_CAPTURE = 1, FEATURE_SERVICES = 2 }; // of INFO

// Descriptors with fixed numbers, so that a handler can close all others at once.
enum {
  FD_PROC = 3, // /proc as it was at start-up: a later mount over it changes nothing
  FD_CONTROL = 4, // messages to PID 1
  FD_CONN = 5, // a handler's connection
  FD_PROXY = 6, // where programs inside ask for a way out; see accept.c
  FD_CAPTURE = 7, // where connections of programs that know of no way out arrive; see capture.c
  FD_DNS_TCP = 8, // where they look names up
  FD_DNS_UDP = 9, // and 10, for IPv6
  FD_SERVICE = 11, // and 12: where programs reach services of the host, as far as it has asked for them; see service.c
  FD_FIRST = 13, // cgroup.procs of where commands begin; see group.c
  FD_LIMITED = 14, // and, from here on, of where those that go on belong
};

enum {
  MAX_REQUEST = 1 << 20,
  MAX_DATA = 128 << 10,
  MAX_REPLY = 64 << 10,
};

enum request_type {
  REQ_HELLO = 0x01,
  REQ_SPAWN = 0x02,
  REQ_WAIT = 0x03,
  REQ_SHUTDOWN = 0x04,
  REQ_LOGS = 0x05,
  REQ_READ = 0x10,
  REQ_WRITE = 0x11,
  REQ_STAT = 0x12,
  REQ_LIST = 0x13,
  REQ_MKDIR = 0x14,
  REQ_RENAME = 0x15,
  REQ_REMOVE = 0x16,
  REQ_CHMOD = 0x17,
  REQ_WATCH = 0x18,
  REQ_DIAL = 0x20,
  REQ_ACCEPT = 0x21,
  REQ_LISTEN = 0x22,
  REQ_DATAGRAMS = 0x23,
  IN_DATA = 0x40,
  IN_EOF = 0x41,
  IN_RESIZE = 0x42,
  IN_SIGNAL = 0x43,
  IN_KILL = 0x44,
  IN_DATAGRAM = 0x45,
  IN_END_FLOW = 0x46,
};

enum reply_type {
  OUT_OK = 0x80,
  OUT_ERROR = 0x81,
  OUT_INFO = 0x82,
  OUT_STARTED = 0x83,
  OUT_STDOUT = 0x84,
  OUT_STDERR = 0x85,
  OUT_EXIT = 0x86,
  OUT_STAT = 0x87,
  OUT_ENTRY = 0x88,
  OUT_DATA = 0x89,
  OUT_END = 0x8a,
  OUT_EVENT = 0x8b,
  OUT_LOG = 0x8c,
  OUT_DATAGRAM = 0x8e,
};

// ---- frame.c: bytes on the wire

#define HEADER_BYTES 5

void put16(unsigned char *at, uint16_t value);
void put32(unsigned char *at, uint32_t value);
void put64(unsigned char *at, uint64_t value);
uint32_t get32(const unsigned char *at);
void put_header(unsigned char *at, unsigned type, uint32_t payload_bytes);

/// What is left of a request's payload. `bad` once anything did not fit.
struct fields {
  unsigned char *at;
  size_t left;
  bool bad;
};
uint8_t take8(struct fields *f);
uint16_t take16(struct fields *f);
uint32_t take32(struct fields *f);
uint64_t take64(struct fields *f);
/// A NUL-terminated string inside the payload; the payload is changed in place. "" when bad.
char *take_str(struct fields *f);

/// False when the peer is gone.
bool read_exact(int fd, void *buffer, size_t bytes);
bool write_exact(int fd, const void *buffer, size_t bytes);
bool send_frame(int fd, unsigned type, const void *payload, size_t bytes);
bool send_ok(int fd);
bool send_end(int fd, uint64_t value);
bool send_error(int fd, int error, const char *what);
/// Ends our direction and reads what still comes, for a few seconds at most: closing a socket with unread bytes, or under
/// a peer that is still writing, would take our last frame from it.
void linger(int fd);

#define EXIT_BYTES 17
enum { EXIT_TIMED_OUT = 1, EXIT_STDOUT_CUT = 2, EXIT_STDERR_CUT = 4, EXIT_KILLED = 8 };
/// The EXIT payload for a status as wait() tells it.
void put_exit(unsigned char *at, int wait_status, uint32_t flags, uint64_t cpu_us);

// ---- users.c

struct account {
  uid_t uid;
  gid_t gid;
  gid_t groups[64];
  size_t group_count;
  bool change; // false: stay as the guest is
  char name[256]; // empty without a passwd entry
  char home[1024];
};
/// 0, or an errno: ESRCH when there is no such user or group. `spec` "" is the guest's own user.
int find_account(const char *spec, struct account *account);

// ---- launch.c

struct launch {
  char **argv;
  char **env;
  const char *cwd;
  const struct account *account;
  int fd[3]; // become 0, 1, 2; each above 2
  bool tty; // fd[0] becomes the controlling terminal
  bool limited; // from its start on, in every way; otherwise whoever starts it sees to that later
};
enum stage { STAGE_NONE, STAGE_SETUP, STAGE_USER, STAGE_CWD, STAGE_EXEC };
struct outcome {
  enum stage failed;
  int error;
  bool bad_interpreter; // the program is there, what its first line names is not
};
/// Starts a command in a session of its own. Always returns the pid when a process was made, even if it could not become
/// the command (see outcome): the caller reaps it. -1 with outcome.error when there is no process.
pid_t launch(const struct launch *l, struct outcome *outcome);
/// Exit code for a command that could not be started, and the line that says why.
int explain_exec_failure(const struct outcome *outcome, const char *program, char *line, size_t line_bytes);
/// `env` with HOME, USER, LOGNAME and PATH added where absent. NULL when out of memory.
char **complete_env(char *const *env, size_t count, const struct account *account);

// ---- supervise.c

struct command {
  int conn; // -1: none, for the main command
  int signals; // from become_supervisor(), which must come before the command starts
  pid_t pid;
  int status; // when it has ended already (it could not be started); else -1
  int in_fd; // stdin's pipe or the terminal; -1: none
  int out_fd;
  int err_fd;
  bool tty;
  bool detached;
  bool logged; // its output goes to the main log
  uint64_t deadline_ns; // CLOCK_MONOTONIC; 0: none
  uint64_t most_output; // per stream; 0: no limit
  const char *complaint; // goes to stderr first; may be NULL
};
/// Looks after the command until it and all of its descendants have ended.
_Noreturn void supervise(const struct command *c);
uint64_t now_ns(void);
/// Makes this process the reaper of its descendants and opens a signalfd for SIGCHLD and the death of PID 1. -1: failed.
int become_supervisor(void);

// ---- group.c

enum { MAX_LIMITED = 2 };
/// Keeps the descriptors of where commands begin (-1: there is no such cgroup) as FD_FIRST, and of those where they are limited
/// from FD_LIMITED on. False with errno.
bool groups_keep(int first, const int *limited, size_t count);
/// The first descriptor that has no fixed use.
int first_free_fd(void);
/// True when commands are to be limited some time after their start.
bool groups_limit_later(void);
/// Puts this process where commands begin; `limited` under all limits at once. False with errno.
bool groups_join(bool limited);
/// Puts a process under all limits. False with errno; one that is gone is success.
bool groups_limit(pid_t pid);
/// True when the process is under them already, or gone.
bool groups_is_limited(pid_t pid);

// ---- mainlog.c

/// In PID 1, before the main command is started. False: no memory.
bool main_log_open(void);
/// Keeps output of the main command: stream 0 is stdout, 1 stderr. At most 128 KiB at a time, or nothing is kept.
void main_log_append(int stream, const void *bytes, size_t count);
/// Nothing more will come.
void main_log_end(void);

// ---- tree.c

/// At start-up: opens /proc as FD_PROC, or leaves a placeholder there when it is missing or is of another pid namespace.
void open_proc(void);
bool have_proc(void);
/// Sends a signal (0: none) to all that was put into our pid namespace from outside, such as a mux: no parent of theirs is
/// inside. How many there are that have not ended, -1 when it can't be known.
long outsiders_signal(int signal);

struct tree {
  pid_t root; // descendants of this one, itself excluded
  bool everyone; // rather all processes that there are, but those put in from outside
  const pid_t *spare; // these are left alone
  size_t spare_count;
  bool spare_below; // and what is below them too
};
/// Sends a signal (0: none) to every member that has not ended; how many there are, -1 when it can't be known.
long tree_signal(const struct tree *t, int signal);
/// Stops all members until no new ones appear, then kills them: a fork bomb can't outrun it. Bounded to about 60 ms.
void tree_stop_and_kill(const struct tree *t);
/// Puts all members, and what they fork meanwhile, under all limits. False when that can't be done.
bool tree_limit(const struct tree *t);

// ---- path.c

/// A name inside a directory.
typedef char entry_name[256];

/// open() that never blocks and never follows a magic link of /proc. -1 with errno.
int open_plain(int dir, const char *path, int flags);
/// Opens a regular file and nothing else: a FIFO or device is not even touched. EISDIR, EINVAL.
int open_regular(int dir, const char *path, int flags);
/// Directory that holds the last component of an absolute path, and that component: "." for `/`. -1 with errno.
int open_parent(const char *path, entry_name name);
/// As open_parent, with the last component's symbolic links followed: `name` was no link, or does not exist.
int open_target(const char *path, entry_name name);
/// Makes a directory with its parents; one that exists is success. False with errno.
bool make_directories(const char *path, mode_t mode);

// ---- one function for each request; each answers on FD_CONN

void do_read(struct fields *f);
void do_stat(struct fields *f);
void do_list(struct fields *f);
void do_mkdir(struct fields *f);
void do_rename(struct fields *f);
void do_chmod(struct fields *f);
void do_write(struct fields *f);
void do_remove(struct fields *f);
void do_watch(struct fields *f);
void do_dial(struct fields *f);
void do_accept(struct fields *f);
void do_listen(struct fields *f);
void do_datagrams(struct fields *f);
void do_spawn(struct fields *f);
void do_logs(struct fields *f);

// ---- accept.c

/// Listens on this port of 127.0.0.1, as FD_PROXY. False with errno.
bool proxy_listen(uint16_t port);
/// True when proxy_listen() has been called.
bool has_proxy(void);

// ---- loop.c: what the relay process waits in

/// A descriptor, and what is called when something happens to it.
struct source {
  int fd;
  uint32_t events; // what is waited for; loop_watch() sets it
  void (*ready)(struct source *s, uint32_t events);
};
bool loop_open(void);
/// Waits for these events of epoll(7), level-triggered, instead of those before; 0: for none, not even a hang-up. False with errno.
bool loop_watch(struct source *s, uint32_t events);
/// Closes the descriptor, if there is one; `ready` is not called any more, so that the source may be freed.
void loop_close(struct source *s);
/// Waits once, -1 ms for ever, and calls what is ready.
void loop_turn(int wait_ms);

// ---- relay.c

/// What a captured connection was meant for.
struct wanted {
  char host[256]; // a name or an IP address
  uint16_t port;
};
struct lane;
/// A listening socket for programs inside, each of whose connections goes to the next ACCEPT of its lane.
struct door {
  struct source source;
  /// Says what a client that was accepted here wanted; false: it is closed. NULL: the clients say it themselves, and first
  /// (the proxy port).
  bool (*ask)(int client, struct wanted *wanted);
  struct lane *lane;
  struct door *next;
};
/// Takes clients, who want out, from this non-blocking socket from now on. False: no memory.
bool relay_open_door(struct door *d, int fd);
/// Runs in a process forked for it. PID 1 hands connections over through `handed`: `struct control` with a descriptor each.
_Noreturn void run_relay(int handed);

/// The first byte of what ACCEPT is answered with.
enum { ACCEPTED_PROXY = 0, ACCEPTED_CAPTURED = 1, ACCEPTED_SERVICE = 2 };

// ---- service.c

enum { MOST_SERVICES = 2 };
/// In PID 1, at start-up: keeps the descriptors from FD_SERVICE on free of anything else. False with errno.
bool services_reserve(void);
/// True when the host has asked for this one, 1 to MOST_SERVICES, which FD_SERVICE + service - 1 is then.
bool has_service(unsigned service);
bool has_services(void);

// ---- guard.c

#define GUARD_TABLE "warren"
// Its chains whose packets are told of: those that are denied, and those that would be one connection too many.
#define GUARD_DENIED "denied"
#define GUARD_FULL "full"

/// Makes this network namespace's rules of what may leave it, and gives CAP_NET_ADMIN up. `items`, separated by commas, decide
/// in their order: `+` (let out) or `-`, ADDRESS/BITS, and `@FROM-TO` where only these TCP and UDP ports are meant. What none
/// is about is let out. Nothing comes in but answers. `items` may also be the absolute path of a file that holds them. False
/// with errno.
bool guard(const char *items);
/// On the host: puts other items in the place of those of the sandbox whose first process has this pid and start time, for
/// open connections too, all at once. An exit code: 0, 1 and why on stderr, or 3 when it has no rules that could be changed.
int guard_change(const char *pid, const char *start, const char *items);
/// Tries that in a network namespace that ends with this process: 0, or 1 and why on stderr.
int guard_check(void);
/// For this process and all that come of it. One that does not have it is success. False with errno.
bool drop_net_admin(void);

// ---- denied.c

/// On the host, for as long as the sandbox's first process, which has this pid and start time, and stdin are open: writes a line to
/// stdout for what its guard denies, `CHAIN PROTOCOL ADDRESS PORT`, and `.` for each byte of stdin when all that
/// was denied before it is told. An exit code: 0, 1 and why on stderr, or 3 when its guard can't tell.
int guard_watch(const char *pid, const char *start);

// ---- capture.c

/// Leads all that programs send out of this network namespace, which must have nothing but lo, to sockets of ours, FD_CAPTURE and
/// those after it: connections to `port`, queries for names to 53 and, by TCP, to the port after `port`. Needs CAP_NET_ADMIN and
/// CAP_NET_BIND_SERVICE. False with errno and what failed; nothing is captured then.
bool capture_open(uint16_t port, const char **what);
bool has_capture(void);
/// In the relay, before the first turn of its loop: takes what was captured, and answers queries. False with errno.
bool capture_serve(void);
/// Tries it in a namespace of its own; 0, or 1 after a line on stderr that says what this kernel lacks.
int capture_check(void);

// ---- mux.c

#define MUX_PROTOCOL 1
/// Speaks docs/wire/mux.md on stdin and stdout, for the guest that listens at `path`.
_Noreturn void mux(const char *path);

// ---- serve.c, main.c

/// Runs in a process forked for it; reports its start and end to PID 1.
_Noreturn void run_main(char **argv, char **env, const char *cwd, const char *user);

/// Runs in a process forked for this connection.
_Noreturn void serve(int conn);
/// Closes every descriptor from `first` on.
void close_from(int first);
/// For processes that outlive what a payload sends to everybody (`kill -TERM -1`); PID 1 ends those that don't end by
/// themselves with SIGUSR2.
void set_handler_signals(void);

/// Where DIAL goes.
struct destination {
  int family; // AF_INET, AF_INET6
  unsigned char address[16];
  uint16_t port;
  uint32_t timeout_ms; // 0: none
  bool localhost; // ::1 is tried when 127.0.0.1 refuses
};
enum control_kind {
  CONTROL_WAIT = 1,
  CONTROL_SHUTDOWN,
  CONTROL_MAIN_STARTED,
  CONTROL_MAIN_ENDED,
  CONTROL_ACCEPT,
  CONTROL_DIAL,
  CONTROL_LISTEN,
};
/// What handlers tell PID 1, and PID 1 the relay. WAIT, ACCEPT and DIAL carry the connection with them, LISTEN the socket.
struct control {
  enum control_kind kind;
  uint32_t value; // SHUTDOWN: grace in ms; MAIN_STARTED: pid; MAIN_ENDED: wait status; ACCEPT, LISTEN: service, 0: the way out
  uint64_t cpu_us; // MAIN_ENDED
  struct destination to; // DIAL
};
/// False with errno.
bool tell_init(const struct control *message, int fd);
/// With a descriptor; -1: without one. False with errno.
bool send_message(int to, const struct control *message, int fd, int flags);
/// As recv(2), without waiting, with the descriptor that came along; -1: none did.
ssize_t receive_message(int from, void *message, size_t bytes, int *fd);

#endif
