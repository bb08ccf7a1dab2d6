#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
  MAX_HANDLERS = 1024,
  MAX_WAITERS = 64,
  BACKLOG = 4096, // as the kernel's own limit
  REFUSALS = 64, // in one go, before anything else is looked at
  FD_LOW = 16, // PID 1's own descriptors start here, above the fixed ones
  DEFAULT_GRACE_MS = 2000,
  TICK_MS = 10, // how often a shutdown looks whether all have gone
  MAIN_AFTER_MS = 10000, // until the main command starts without what it waits for
  FLUSH_MS = 200, // for handlers to send their last frames
};

struct options {
  int fd;
  int group_own, group_first; // -1: none
  int group_limited[MAX_LIMITED];
  size_t group_limited_count;
  bool receives;
  long proxy_port, capture_port; // 0: none
  int network; // says when there is a network, and for how long; -1: not needed
  const char *guard; // NULL: none
  const char *listen;
  const char *main_cwd;
  const char *main_user;
  const char *main_after; // a file that the main command waits for, or NULL
  char **main_argv; // NULL: none
};

struct waiter {
  int conn;
  bool started; // STARTED was sent
};

static struct {
  int listener;
  bool receives; // it is no listener: the host hands connections over through it
  bool has_path; // anybody inside may try it
  int signals;
  int control;
  int network; // hangs up when who serves our network has ended; -1: nobody does
  pid_t handlers[MAX_HANDLERS + 1]; // and the relay
  size_t handler_count;
  struct waiter waiters[MAX_WAITERS];
  size_t waiter_count;
  pid_t relay; // 0: there is none
  int to_relay;

  pid_t main_supervisor; // 0: there is no main command
  uint32_t main_pid; // 0: not yet started
  bool main_ended;
  int main_status;
  uint64_t main_cpu_us;

  enum { SERVING, ENDING, FLUSHING } phase;
  uint64_t phase_end_ns;
  bool orphans; // of a handler that died; to be killed
} g;

// ---- start

static bool parse_options(int argc, char **argv, struct options *o) {
  *o = (struct options){.fd = -1, .network = -1, .group_own = -1, .group_first = -1, .main_cwd = "/", .main_user = ""};
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--") == 0) {
      if (i + 1 < argc) o->main_argv = argv + i + 1;
      break;
    }
    if (i + 1 >= argc) return false;
    const char *value = argv[i + 1];
    char *end = NULL;
    bool limited = strcmp(argv[i], "--group-limited") == 0;
    if (limited && o->group_limited_count == MAX_LIMITED) return false;
    int *descriptor = strcmp(argv[i], "--fd") == 0              ? &o->fd
                      : strcmp(argv[i], "--group-own") == 0     ? &o->group_own
                      : strcmp(argv[i], "--group-first") == 0   ? &o->group_first
                      : strcmp(argv[i], "--network") == 0       ? &o->network
                      : limited                                 ? &o->group_limited[o->group_limited_count++]
                                                                : NULL;
    if (descriptor != NULL) {
      long fd = strtol(value, &end, 10);
      if (end == value || *end != 0 || fd < 3 || fd > 65535) return false;
      *descriptor = (int)fd;
    } else if (strcmp(argv[i], "--receive") == 0) {
      long fd = strtol(value, &end, 10);
      if (end == value || *end != 0 || fd < 0 || fd > 65535 || fd == STDOUT_FILENO || fd == STDERR_FILENO) return false;
      o->fd = (int)fd;
      o->receives = true;
    } else if (strcmp(argv[i], "--proxy-port") == 0) {
      o->proxy_port = strtol(value, &end, 10);
      if (end == value || *end != 0 || o->proxy_port < 1 || o->proxy_port > 65535) return false;
    } else if (strcmp(argv[i], "--guard") == 0) o->guard = value;
    else if (strcmp(argv[i], "--capture-port") == 0) {
      o->capture_port = strtol(value, &end, 10);
      if (end == value || *end != 0 || o->capture_port < 1 || o->capture_port > 65534) return false;
    } else if (strcmp(argv[i], "--listen") == 0) o->listen = value;
    else if (strcmp(argv[i], "--main-cwd") == 0) o->main_cwd = value;
    else if (strcmp(argv[i], "--main-user") == 0) o->main_user = value;
    else if (strcmp(argv[i], "--main-after") == 0) o->main_after = value;
    else return false;
    i++;
  }
  return (o->fd >= 0) != (o->listen != NULL) && (o->capture_port == 0 || o->proxy_port != 0);
}

static int listen_at(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) return -1;
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  // The host's user may be none of ours; is_welcome() decides.
  mode_t old = umask(0111);
  bool ok = bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, BACKLOG) == 0;
  umask(old);
  if (ok) return fd;
  close(fd);
  return -1;
}

static bool null_as_stdin(void) {
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  bool ok = null >= 0 && dup2(null, STDIN_FILENO) >= 0;
  close(null);
  return ok;
}

/// Waits for the byte that says that there is a network. False with errno when none comes.
static bool await_network(int fd) {
  char byte;
  ssize_t n;
  while ((n = read(fd, &byte, 1)) < 0 && errno == EINTR) continue;
  if (n == 0) errno = ENETDOWN;
  return n == 1;
}

/// Where the kernel can't do it, only programs that know of the proxy have a way out, and the host learns that by HELLO.
static bool arrange_capture(uint16_t port) {
  const char *what;
  if (!capture_open(port, &what)) dprintf(STDERR_FILENO, "warren-guest: capturing connections: %s: %s\n", what, strerror(errno));
  return drop_net_admin();
}

/// 0, 1 and 2 open; the fixed descriptors in place; the listener above; nothing else.
static bool arrange_descriptors(const struct options *o) {
  // Before there is anybody else: what is forked begins where its parent is.
  if (o->group_own >= 0 && write(o->group_own, "0", 1) != 1) return false;
  for (int fd = open("/dev/null", O_RDWR); fd >= 0; fd = open("/dev/null", O_RDWR)) {
    if (fd <= STDERR_FILENO) continue;
    close(fd);
    break;
  }
  int listener = o->listen != NULL ? listen_at(o->listen) : o->fd;
  struct stat st;
  if (listener < 0 || fstat(listener, &st) != 0 || !S_ISSOCK(st.st_mode)) return false;
  int first = -1, limited[MAX_LIMITED];
  if (o->group_first >= 0 && (first = fcntl(o->group_first, F_DUPFD_CLOEXEC, FD_LOW)) < 0) return false;
  for (size_t i = 0; i < o->group_limited_count; i++)
    if ((limited[i] = fcntl(o->group_limited[i], F_DUPFD_CLOEXEC, FD_LOW)) < 0) return false;
  int network = -1;
  if (o->network >= 0 && (network = fcntl(o->network, F_DUPFD_CLOEXEC, FD_LOW)) < 0) return false;
  int parked = fcntl(listener, F_DUPFD_CLOEXEC, FD_LOW);
  if (parked < 0) return false;
  if (listener == STDIN_FILENO && !null_as_stdin()) return false;
  for (int fd = 3; fd < parked; fd++) {
    bool keeps = fd == first || fd == network;
    for (size_t i = 0; i < o->group_limited_count; i++) keeps = keeps || fd == limited[i];
    if (!keeps) close(fd);
  }
  close_from(parked + 1);
  open_proc();
  if (!groups_keep(first, limited, o->group_limited_count) || !services_reserve()) return false;
  if (o->proxy_port != 0 && !proxy_listen((uint16_t)o->proxy_port)) return false;
  if (o->guard != NULL && !guard(o->guard)) return false;
  if (network >= 0 && !await_network(network)) return false;
  g.network = network;
  if (o->capture_port != 0 && !arrange_capture((uint16_t)o->capture_port)) return false;
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return false;
  g.control = fcntl(pair[0], F_DUPFD_CLOEXEC, FD_LOW);
  int tx = fcntl(pair[1], F_DUPFD_CLOEXEC, FD_LOW);
  close(pair[0]);
  close(pair[1]);
  if (g.control < 0 || tx < 0 || dup3(tx, FD_CONTROL, O_CLOEXEC) < 0) return false;
  close(tx);
  g.listener = parked;
  g.receives = o->receives;
  g.has_path = o->listen != NULL;
  int flags = fcntl(parked, F_GETFL);
  return fcntl(parked, F_SETFL, flags | O_NONBLOCK) == 0;
}

static bool arrange_signals(void) {
  static const int ignored[] = {SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGPIPE, SIGTSTP, SIGTTIN, SIGTTOU};
  for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++) signal(ignored[i], SIG_IGN);
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGCHLD);
  sigaddset(&mask, SIGTERM);
  sigaddset(&mask, SIGINT);
  if (sigprocmask(SIG_SETMASK, &mask, NULL) != 0) return false;
  int fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd < 0) return false;
  g.signals = fcntl(fd, F_DUPFD_CLOEXEC, FD_LOW);
  close(fd);
  return g.signals >= 0;
}

static void add_handler(pid_t pid) {
  g.handlers[g.handler_count++] = pid;
}

static bool drop_handler(pid_t pid) {
  for (size_t i = 0; i < g.handler_count; i++) {
    if (g.handlers[i] != pid) continue;
    g.handlers[i] = g.handlers[--g.handler_count];
    return true;
  }
  return false;
}

/// Until the host has put there what the main command needs. A host that has gone meanwhile must not keep it from starting.
static void wait_for_file(const char *path) {
  uint64_t end = now_ns() + MAIN_AFTER_MS * 1000000ull;
  while (access(path, F_OK) != 0 && now_ns() < end) usleep(1000);
}

static bool start_main(const struct options *o) {
  extern char **environ;
  if (o->main_argv == NULL) return true;
  if (!main_log_open()) return false;
  // Where the host has not done it. What can't be made shows when the command is to be started there.
  make_directories(o->main_cwd, 0755);
  // One of an earlier start says nothing about this one.
  if (o->main_after != NULL) unlink(o->main_after);
  pid_t pid = fork();
  if (pid < 0) return false;
  if (pid == 0) {
    close_from(first_free_fd());
    if (o->main_after != NULL) wait_for_file(o->main_after);
    run_main(o->main_argv, environ, o->main_cwd, o->main_user);
  }
  g.main_supervisor = pid;
  add_handler(pid);
  return true;
}

// ---- those who wait for the main command

static void drop_waiter(size_t i) {
  close(g.waiters[i].conn);
  g.waiters[i] = g.waiters[--g.waiter_count];
}

/// Small frames into an empty socket buffer: they go out whole or the host has gone.
static void tell_waiters(void) {
  for (size_t i = g.waiter_count; i-- > 0;) {
    struct waiter *w = &g.waiters[i];
    unsigned char pid[4];
    put32(pid, g.main_supervisor == 0 ? 0 : g.main_pid);
    if (!w->started && (g.main_supervisor == 0 || g.main_pid != 0)) {
      w->started = true;
      send_frame(w->conn, OUT_STARTED, pid, sizeof pid);
    }
    if (w->started && g.main_ended) {
      unsigned char payload[EXIT_BYTES];
      put_exit(payload, g.main_status, 0, g.main_cpu_us);
      send_frame(w->conn, OUT_EXIT, payload, sizeof payload);
      drop_waiter(i);
    }
  }
}

static void end_main(int status, uint64_t cpu_us) {
  if (g.main_ended) return;
  g.main_ended = true;
  main_log_end();
  g.main_status = status;
  g.main_cpu_us = cpu_us;
  tell_waiters();
}

// ---- shutdown

static void begin_ending(uint32_t grace_ms) {
  uint64_t end = now_ns() + grace_ms * 1000000ull;
  if (g.phase != SERVING) {
    // Asking again may shorten it.
    if (g.phase == ENDING && end < g.phase_end_ns) g.phase_end_ns = end;
    return;
  }
  g.phase = ENDING;
  g.phase_end_ns = end;
  close(g.listener);
  g.listener = -1;
  struct tree t = {.root = getpid(), .everyone = getpid() == 1, .spare = g.handlers, .spare_count = g.handler_count};
  if (tree_signal(&t, SIGTERM) < 0) {
    if (getpid() == 1) kill(-1, SIGTERM);
  } else {
    // A stopped process gets its SIGTERM only when it continues.
    tree_signal(&t, SIGCONT);
  }
}

static void kill_everybody(void) {
  struct tree t = {.root = getpid(), .everyone = getpid() == 1, .spare = g.handlers, .spare_count = g.handler_count};
  tree_stop_and_kill(&t);
}

static bool anybody_left(void) {
  struct tree t = {.root = getpid(), .everyone = getpid() == 1, .spare = g.handlers, .spare_count = g.handler_count};
  long left = tree_signal(&t, 0);
  return left != 0;
}

static int exit_code(void) {
  if (!g.main_ended) return 0;
  return WIFSIGNALED(g.main_status) ? 128 + WTERMSIG(g.main_status) : WEXITSTATUS(g.main_status);
}

/// A mux has our last words still to bring to the host; it ends when its connections have.
static void let_outsiders_finish(void) {
  uint64_t end = now_ns() + FLUSH_MS * 1000000ull;
  if (getpid() != 1 || outsiders_signal(SIGTERM) <= 0) return;
  while (now_ns() < end && outsiders_signal(0) > 0) usleep(1000);
}

_Noreturn static void leave(void) {
  for (size_t i = 0; i < g.handler_count; i++) kill(g.handlers[i], SIGKILL);
  while (g.waiter_count > 0) drop_waiter(0);
  let_outsiders_finish();
  _exit(exit_code());
}

static void advance_shutdown(void) {
  if (g.phase == ENDING) {
    bool left = anybody_left();
    if (left && now_ns() < g.phase_end_ns) return;
    if (left) kill_everybody();
    for (size_t i = 0; i < g.handler_count; i++) kill(g.handlers[i], SIGUSR2);
    g.phase = FLUSHING;
    g.phase_end_ns = now_ns() + FLUSH_MS * 1000000ull;
  }
  if (g.phase == FLUSHING && (g.handler_count == 0 || now_ns() >= g.phase_end_ns)) {
    kill_everybody();
    leave();
  }
}

// ---- events

static void add_waiter(int conn) {
  if (g.waiter_count == MAX_WAITERS) {
    send_error(conn, EAGAIN, "too many waiting connections");
    close(conn);
    return;
  }
  fcntl(conn, F_SETFL, O_NONBLOCK);
  g.waiters[g.waiter_count++] = (struct waiter){.conn = conn};
  tell_waiters();
}

static void refuse(int conn, int error, const char *what) {
  enum { MOST_READS = 64 };
  char scrap[4096];
  fcntl(conn, F_SETFL, O_NONBLOCK);
  send_error(conn, error, what);
  // What is left unread would be a reset; one who goes on sending gets one.
  for (int i = 0; i < MOST_READS && recv(conn, scrap, sizeof scrap, MSG_DONTWAIT) > 0; i++) continue;
  close(conn);
}

static bool start_relay(void) {
  int pair[2];
  // With one that is dying and not reaped yet among them.
  if (g.handler_count > MAX_HANDLERS) return false;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return false;
  int parked = fcntl(pair[0], F_DUPFD_CLOEXEC, FD_LOW);
  pid_t pid = parked < 0 ? -1 : fork();
  if (pid == 0) run_relay(pair[1]);
  close(pair[0]);
  close(pair[1]);
  if (pid < 0) {
    close(parked);
    return false;
  }
  g.relay = pid;
  g.to_relay = parked;
  add_handler(pid);
  return true;
}

/// Gives a connection to the relay, which is started when there is none.
static void hand_over(const struct control *message, int conn) {
  for (int tries = 0; tries < 2; tries++) {
    if (g.relay == 0 && !start_relay()) break;
    if (send_message(g.to_relay, message, conn, MSG_DONTWAIT)) {
      close(conn);
      return;
    }
    if (errno != EPIPE && errno != ECONNRESET) break;
    // It is dying, and will be reaped as a handler.
    kill(g.relay, SIGKILL);
    close(g.to_relay);
    g.relay = 0;
  }
  refuse(conn, EAGAIN, "the relay");
}

/// Programs inside can reach the service from now on, whatever becomes of the relay.
static void add_service(const struct control *message, int fd) {
  bool ok = message->value >= 1 && message->value <= MOST_SERVICES && dup3(fd, FD_SERVICE + (int)message->value - 1, O_CLOEXEC) >= 0;
  // One that is started knows it.
  if (ok && g.relay == 0) start_relay();
  // So does the next one, which comes when one that takes no message has been reaped.
  else if (ok && !send_message(g.to_relay, message, fd, MSG_DONTWAIT)) kill(g.relay, SIGKILL);
  close(fd);
}

/// Takes one message. False when there is none.
static bool on_control(void) {
  struct control message;
  int fd;
  if (receive_message(g.control, &message, sizeof message, &fd) != (ssize_t)sizeof message) return false;
  switch (message.kind) {
    case CONTROL_WAIT:
      if (fd >= 0) add_waiter(fd);
      break;
    case CONTROL_ACCEPT:
      if (fd >= 0 && message.value != 0 && !has_service(message.value)) {
        refuse(fd, ENOTSUP, "accepting connections to a service that there is not");
        break;
      }
      if (fd >= 0) hand_over(&message, fd);
      break;
    case CONTROL_DIAL:
      if (fd >= 0) hand_over(&message, fd);
      break;
    case CONTROL_LISTEN:
      if (fd >= 0) add_service(&message, fd);
      break;
    case CONTROL_SHUTDOWN:
      begin_ending(message.value);
      break;
    case CONTROL_MAIN_STARTED:
      g.main_pid = message.value;
      tell_waiters();
      break;
    case CONTROL_MAIN_ENDED:
      end_main((int)message.value, message.cpu_us);
      break;
  }
  return true;
}

static void kill_orphans(void) {
  struct tree t = {.root = getpid(), .spare = g.handlers, .spare_count = g.handler_count, .spare_below = true};
  tree_stop_and_kill(&t);
  g.orphans = tree_signal(&t, 0) > 0;
}

static void reap(void) {
  for (;;) {
    int status;
    pid_t pid = waitpid(-1, &status, WNOHANG | WUNTRACED);
    if (pid < 0 && errno == EINTR) continue;
    if (pid <= 0) break;
    if (WIFSTOPPED(status)) {
      // Only a payload stops a handler: to outlive its deadline.
      for (size_t i = 0; i < g.handler_count; i++) {
        if (g.handlers[i] == pid) kill(pid, SIGKILL);
      }
      continue;
    }
    if (!drop_handler(pid)) continue;
    if (pid == g.relay) {
      g.relay = 0;
      close(g.to_relay);
      // A payload did that. One that ends by itself would do so again.
      if (WIFSIGNALED(status) && g.phase == SERVING && (has_proxy() || has_services())) start_relay();
      continue;
    }
    if (WIFSIGNALED(status)) g.orphans = true;
    if (pid == g.main_supervisor) {
      // Its last message may still be on its way; without one, the payload killed it.
      while (on_control()) continue;
      if (g.main_pid == 0) g.main_pid = (uint32_t)pid;
      end_main(SIGKILL, 0);
    }
  }
}

static void on_signal(void) {
  struct signalfd_siginfo info;
  while (read(g.signals, &info, sizeof info) == (ssize_t)sizeof info) {
    if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) begin_ending(DEFAULT_GRACE_MS);
  }
}

/// The next connection that the host hands over; -1 with errno. When it closes its end, nobody can reach us any more.
static int receive_connection(void) {
  char note;
  int fd;
  ssize_t n = receive_message(g.listener, &note, sizeof note, &fd);
  if (n < 0) return -1;
  if (n == 0) begin_ending(0);
  errno = EAGAIN;
  return fd;
}

/// True for the host, which is outside of our pid namespace, so that its pid reads as 0, and for root inside.
static bool is_welcome(int conn) {
  struct ucred peer;
  socklen_t bytes = sizeof peer;
  if (getsockopt(conn, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) return false;
  return peer.pid == 0 || peer.uid == 0;
}

/// -1 with errno.
static int next_connection(void) {
  if (g.receives) return receive_connection();
  // Refusing costs less than a turn of the loop: those who are refused don't keep the host waiting.
  for (int i = 0; i < REFUSALS; i++) {
    int conn = accept4(g.listener, NULL, NULL, SOCK_CLOEXEC);
    if (conn < 0 || !g.has_path || is_welcome(conn)) return conn;
    refuse(conn, EPERM, "connecting to the guest from inside");
  }
  errno = EAGAIN;
  return -1;
}

/// Takes an ACCEPT off a connection on which it has come already, as it has when many come at once: that saves a process.
static bool takes_accept(int conn) {
  static const unsigned char request[HEADER_BYTES] = {[4] = REQ_ACCEPT};
  unsigned char first[HEADER_BYTES];
  return recv(conn, first, sizeof first, MSG_DONTWAIT | MSG_PEEK) == sizeof first && memcmp(first, request, sizeof first) == 0 &&
         has_proxy() && recv(conn, first, sizeof first, MSG_DONTWAIT) == sizeof first;
}

static void on_connection(void) {
  int conn = next_connection();
  if (conn < 0) {
    // Out of descriptors or memory: the connection stays in the queue, and trying again at once would spin.
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) usleep(10000);
    return;
  }
  if (takes_accept(conn)) {
    hand_over(&(struct control){.kind = CONTROL_ACCEPT}, conn);
    return;
  }
  if (g.handler_count - (g.relay != 0) == MAX_HANDLERS) {
    refuse(conn, EAGAIN, "starting a handler");
    return;
  }
  pid_t pid = fork();
  if (pid == 0) serve(conn);
  if (pid < 0) {
    refuse(conn, errno, "starting a handler");
    return;
  }
  add_handler(pid);
  close(conn);
}

/// A sandbox that silently has no network any more helps nobody.
static void end_without_network(void) {
  close(g.network);
  g.network = -1;
  begin_ending(DEFAULT_GRACE_MS);
}

static int wait_ms(void) {
  return g.phase == SERVING && !g.orphans ? -1 : TICK_MS;
}

_Noreturn static void run(void) {
  for (;;) {
    enum { FIRST_WAITER = 4 };
    struct pollfd p[FIRST_WAITER + MAX_WAITERS] = {{.fd = g.signals, .events = POLLIN},
                                                   {.fd = g.control, .events = POLLIN},
                                                   {.fd = g.listener, .events = POLLIN},
                                                   {.fd = g.network}};
    size_t waiters = g.waiter_count;
    for (size_t i = 0; i < waiters; i++)
      p[FIRST_WAITER + i] = (struct pollfd){.fd = g.waiters[i].conn, .events = POLLRDHUP};
    if (poll(p, FIRST_WAITER + waiters, wait_ms()) < 0) continue;
    // From the last: dropping one moves the last into its place. All before anything adds to them.
    for (size_t i = waiters; i-- > 0;) {
      if (p[FIRST_WAITER + i].revents != 0) drop_waiter(i);
    }
    if (p[3].revents != 0) end_without_network();
    if (p[1].revents != 0) on_control();
    if (p[0].revents != 0) on_signal();
    reap();
    if (g.orphans) kill_orphans();
    if (g.phase != SERVING) advance_shutdown();
    else if (p[2].revents != 0) on_connection();
  }
}

int main(int argc, char **argv) {
  struct options o;
  if (argc == 3 && strcmp(argv[1], "--mux") == 0) {
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    // An engine's exec gives it what PID 1 was given.
    if (!drop_net_admin()) return 1;
    mux(argv[2]);
  }
  if (argc == 2 && strcmp(argv[1], "--check-capture") == 0) return capture_check();
  if (argc == 2 && strcmp(argv[1], "--check-guard") == 0) return guard_check();
  if (argc == 5 && strcmp(argv[1], "--change-guard") == 0) return guard_change(argv[2], argv[3], argv[4]);
  if (argc == 4 && strcmp(argv[1], "--watch-guard") == 0) return guard_watch(argv[2], argv[3]);
  if (!parse_options(argc, argv, &o)) {
    static const char usage[] =
      "usage: warren-guest (--fd N [--group-own N] [--group-first N] [--group-limited N]... | --listen PATH | --receive N) [--network N] [--guard ITEMS] "
      "[--proxy-port N [--capture-port N]] "
      "[--main-cwd DIR] [--main-user USER] [-- argv...]\n       warren-guest --mux PATH\n       warren-guest --check-capture\n       warren-guest --check-guard\n"
      "       warren-guest --change-guard PID START ITEMS\n       warren-guest --watch-guard PID START\n";
    return write(STDERR_FILENO, usage, sizeof usage - 1) > 0 ? 2 : 1;
  }
  // Nobody without CAP_SYS_PTRACE may read our memory or take our descriptors.
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  if (getpid() != 1) prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  if (!arrange_descriptors(&o) || !arrange_signals() || (has_proxy() && !start_relay()) || !start_main(&o)) {
    perror("warren-guest");
    return 1;
  }
  run();
}
