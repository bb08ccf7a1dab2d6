// The relay: one process for all connections between programs inside and the host, those that the host makes (DIAL) and those
// that it takes (ACCEPT). PID 1 hands the host's connections to it.
//
// What one side says is read when the other takes it, into a buffer that all share. What was not taken after all is kept for
// that side, and nothing more is read for it until it has gone: only a direction that is stuck has memory of its own.
#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
  MOST_CONNECTIONS = 4096,
  MOST_WAITING = 64, // ACCEPTs at one time
  MOST_OF_SERVICE = 64, // connections
  MOST_WAITING_FOR_SERVICE = 8,
  OTHER_DESCRIPTORS = 32, // than connections and ACCEPTs
  PIECE = 64 << 10, // that is read at a time
  MUCH_KEPT = 8 << 20, // for all; from there on pieces are small, and so is what can still be kept
  SMALL_PIECE = 4 << 10,
  CLIENT_BUFFER = 256 << 10, // of the kernel, for each direction of a client: it would let them grow to megabytes
  ACCEPTS = 64, // in one go, before anything else is looked at
  SILENCE_MS = 60000, // of a client before its first byte
  BREATH_MS = 1000, // of it in any case
  FAREWELL_MS = 60000, // for a program to take more of what the host had said before it went
  PAUSE_MS = 100, // until descriptors or memory are asked for again
};

/// What connections wait for. Each state has its list, in the order in which they came to it.
enum state {
  WAITING, // ACCEPT, for a client
  SILENT, // a client, for its own first byte
  ASKING, // a client, for an ACCEPT
  CONNECTING, // DIAL
  RELAYING,
  STATES,
};

struct side {
  struct source source; // fd -1: it is not there yet
  struct connection *connection;
  unsigned char *kept; // bytes that it has not taken; NULL: none
  size_t kept_start, kept_end;
  bool ended; // it says nothing more
  bool told; // that the other one says nothing more; or it takes nothing more
  bool gone; // both ways
};

struct connection {
  struct lane *lane;
  struct side host, program;
  struct connection *previous, *next;
  enum state state;
  uint64_t deadline_ns; // 0: none
  struct destination to; // DIAL
  struct wanted *wanted; // ASKING; NULL: it connected to the proxy port
};

struct list {
  struct connection *first, *last;
  size_t count;
};

/// Connections that take room from each other, and from no others.
struct lane {
  struct list lists[STATES];
  size_t most; // connections, without those in WAITING
  size_t most_waiting;
  struct door *doors;
  bool closed; // the doors
  bool paused; // though there is room
  uint64_t open_ns; // when to try again, if not earlier because of room; 0: never
};

enum { LANES = 1 + MOST_SERVICES };

static struct {
  struct source handed; // PID 1 hands connections over through it
  struct lane lanes[LANES]; // the way out and DIAL; from 1 on, services
  uint64_t next_deadline_ns; // the earliest of all, or before it; 0: none
  size_t kept_bytes;
  unsigned char piece[PIECE];
} r;

static void on_side(struct source *s, uint32_t events);
static void open_doors(struct lane *l);

// ---- connections and their lists

static void link_last(struct connection *c, enum state state) {
  struct list *l = &c->lane->lists[state];
  c->state = state;
  c->previous = l->last;
  c->next = NULL;
  if (l->last != NULL) l->last->next = c;
  else l->first = c;
  l->last = c;
  l->count++;
}

static void unlink_from_list(struct connection *c) {
  struct list *l = &c->lane->lists[c->state];
  if (c->previous != NULL) c->previous->next = c->next;
  else l->first = c->next;
  if (c->next != NULL) c->next->previous = c->previous;
  else l->last = c->previous;
  l->count--;
}

static void enter(struct connection *c, enum state state) {
  unlink_from_list(c);
  link_last(c, state);
}

static struct connection *new_connection(struct lane *l, enum state state, int host, int program) {
  struct connection *c = calloc(1, sizeof *c);
  if (c == NULL) return NULL;
  c->lane = l;
  c->host = (struct side){.source = {.fd = host, .ready = on_side}, .connection = c};
  c->program = (struct side){.source = {.fd = program, .ready = on_side}, .connection = c};
  link_last(c, state);
  return c;
}

static void drop_kept(struct side *s) {
  r.kept_bytes -= s->kept_end - s->kept_start;
  free(s->kept);
  s->kept = NULL;
  s->kept_start = s->kept_end = 0;
}

static void end_connection(struct connection *c) {
  drop_kept(&c->host);
  drop_kept(&c->program);
  loop_close(&c->host.source);
  loop_close(&c->program.source);
  unlink_from_list(c);
  struct lane *l = c->lane;
  free(c->wanted);
  free(c);
  if (l->closed && !l->paused) open_doors(l);
}

static void set_deadline(struct connection *c, uint32_t after_ms) {
  c->deadline_ns = now_ns() + after_ms * 1000000ull;
  if (r.next_deadline_ns == 0 || c->deadline_ns < r.next_deadline_ns) r.next_deadline_ns = c->deadline_ns;
}

static bool is_full(const struct lane *l) {
  size_t count = 0;
  for (int state = SILENT; state < STATES; state++) count += l->lists[state].count;
  return count >= l->most;
}

/// When the one who has said nothing for the longest time has had time enough; 0: there is none.
static uint64_t next_eviction_ns(const struct lane *l) {
  return l->lists[SILENT].count == 0 ? 0 : l->lists[SILENT].first->deadline_ns - (SILENCE_MS - BREATH_MS) * 1000000ull;
}

/// Who says nothing makes room for others.
static bool make_room(struct lane *l) {
  if (!is_full(l)) return true;
  uint64_t evict_ns = next_eviction_ns(l);
  if (evict_ns == 0 || now_ns() < evict_ns) return false;
  end_connection(l->lists[SILENT].first);
  return true;
}

// ---- bytes

static struct side *other_of(struct side *s) {
  struct connection *c = s->connection;
  return s == &c->host ? &c->program : &c->host;
}

static void take_no_more(struct side *s) {
  drop_kept(s);
  s->told = true;
}

/// How many of the bytes it took. When it takes none any more, what it has said is still read.
static size_t give(struct side *to, const unsigned char *bytes, size_t count) {
  size_t done = 0;
  while (done < count) {
    ssize_t n = send(to->source.fd, bytes + done, count - done, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) take_no_more(to);
    if (n < 0) break;
    done += (size_t)n;
  }
  return done;
}

static void give_kept(struct side *to) {
  size_t n = give(to, to->kept + to->kept_start, to->kept_end - to->kept_start);
  if (to->told) return;
  to->kept_start += n;
  r.kept_bytes -= n;
  if (to->kept_start == to->kept_end) drop_kept(to);
}

/// Reads once and passes it on. False when the source was reset, or there is no memory for what was not taken.
static bool pass(struct side *from, struct side *to) {
  size_t most = r.kept_bytes < MUCH_KEPT ? PIECE : SMALL_PIECE;
  ssize_t n = recv(from->source.fd, r.piece, most, MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) from->ended = true;
  size_t done = give(to, r.piece, (size_t)n);
  if (to->told || done == (size_t)n) return true;
  size_t left = (size_t)n - done;
  to->kept = malloc(left);
  if (to->kept == NULL) return false;
  memcpy(to->kept, r.piece + done, left);
  to->kept_end = left;
  r.kept_bytes += left;
  return true;
}

/// Waits for what can be done for this side. False: no memory.
static bool watch_side(struct side *s) {
  struct side *other = other_of(s);
  uint32_t events = 0;
  if (!s->ended && !other->told && other->kept == NULL) events |= EPOLLIN;
  if (s->kept != NULL) events |= EPOLLOUT;
  // That it has gone is wanted once: epoll would tell it again and again.
  if (events == 0 && !s->gone) events = EPOLLHUP;
  return loop_watch(&s->source, events);
}

/// Tells each side the other's end, and waits for what comes next. The connection may be gone after that.
static void settle(struct connection *c) {
  struct side *sides[2] = {&c->host, &c->program};
  for (int i = 0; i < 2; i++) {
    if (!sides[1 - i]->ended || sides[i]->told || sides[i]->kept != NULL) continue;
    sides[i]->told = true;
    shutdown(sides[i]->source.fd, SHUT_WR);
  }
  if ((c->host.told && c->program.told) || !watch_side(&c->host) || !watch_side(&c->program)) end_connection(c);
}

static void on_relaying(struct side *s, uint32_t events) {
  struct connection *c = s->connection;
  struct side *other = other_of(s);
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
    s->gone = true;
    if (!s->told) take_no_more(s);
  }
  if (s->kept != NULL && (events & EPOLLOUT) != 0) give_kept(s);
  bool readable = (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && !s->ended && !other->told && other->kept == NULL;
  if (readable && !pass(s, other)) {
    end_connection(c);
    return;
  }
  if (c->host.gone) set_deadline(c, FAREWELL_MS);
  settle(c);
}

// ---- ACCEPT

/// To an empty buffer: it goes out whole, or the host has gone.
static void connect_client(struct connection *c, int host) {
  unsigned char payload[1 + 4 + sizeof c->wanted->host + 2];
  size_t bytes = 1;
  payload[0] = c->lane != r.lanes ? ACCEPTED_SERVICE : c->wanted == NULL ? ACCEPTED_PROXY : ACCEPTED_CAPTURED;
  if (c->wanted != NULL) {
    size_t length = strnlen(c->wanted->host, sizeof c->wanted->host);
    put32(payload + 1, (uint32_t)length);
    memcpy(payload + 5, c->wanted->host, length);
    put16(payload + 5 + length, c->wanted->port);
    bytes = 5 + length + 2;
    free(c->wanted);
    c->wanted = NULL;
  }
  c->host.source.fd = host;
  enter(c, RELAYING);
  if (send_frame(host, OUT_OK, payload, bytes)) settle(c);
  else end_connection(c);
}

/// Brings those together who wait for each other.
static void match(struct lane *l) {
  while (l->lists[ASKING].count > 0 && l->lists[WAITING].count > 0) {
    struct connection *accept = l->lists[WAITING].first;
    int host = accept->host.source.fd;
    loop_watch(&accept->host.source, 0);
    accept->host.source.fd = -1;
    end_connection(accept);
    connect_client(l->lists[ASKING].first, host);
  }
}

static void take_accept(struct lane *l, int host) {
  struct connection *c = l->lists[WAITING].count < l->most_waiting ? new_connection(l, WAITING, host, -1) : NULL;
  if (c == NULL) {
    send_error(host, EUSERS, "more waiting for connections than there may be");
    close(host);
    return;
  }
  // It says nothing before it is answered, so what can be read is its end: all that gVisor tells of it.
  if (!loop_watch(&c->host.source, EPOLLIN | EPOLLRDHUP)) end_connection(c);
  match(l);
}

static void on_silent(struct connection *c) {
  char byte;
  ssize_t n = recv(c->program.source.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  struct lane *l = c->lane;
  c->deadline_ns = 0;
  enter(c, ASKING);
  if (n <= 0 || !loop_watch(&c->program.source, EPOLLHUP)) end_connection(c);
  match(l);
}

/// False: no room or memory; the client is closed.
static bool take_client(struct door *d, int client) {
  struct wanted wanted, *copy = NULL;
  if (d->ask != NULL) {
    memset(&wanted, 0, sizeof wanted);
    if (!d->ask(client, &wanted)) {
      close(client);
      return true;
    }
    if ((copy = malloc(sizeof *copy)) != NULL) *copy = wanted;
  }
  bool failed = (d->ask != NULL && copy == NULL) || !make_room(d->lane);
  struct connection *c = failed ? NULL : new_connection(d->lane, d->ask == NULL ? SILENT : ASKING, -1, client);
  if (c == NULL) {
    free(copy);
    close(client);
    return false;
  }
  c->wanted = copy;
  setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
  if (d->ask == NULL) set_deadline(c, SILENCE_MS);
  if (!loop_watch(&c->program.source, d->ask == NULL ? EPOLLIN : EPOLLHUP)) {
    end_connection(c);
    return false;
  }
  return true;
}

static void close_doors(struct lane *l, uint64_t open_ns, bool pause) {
  l->closed = true;
  l->paused = pause;
  l->open_ns = open_ns;
  if (open_ns != 0 && (r.next_deadline_ns == 0 || open_ns < r.next_deadline_ns)) r.next_deadline_ns = open_ns;
  for (struct door *d = l->doors; d != NULL; d = d->next) loop_watch(&d->source, 0);
}

static void open_doors(struct lane *l) {
  l->closed = false;
  l->open_ns = 0;
  for (struct door *d = l->doors; d != NULL; d = d->next) loop_watch(&d->source, EPOLLIN);
}

static void on_door(struct source *s, uint32_t events) {
  struct door *d = (struct door *)s;
  struct lane *l = d->lane;
  (void)events;
  for (int i = 0; i < ACCEPTS; i++) {
    // They wait in the kernel then.
    if (is_full(l) && (next_eviction_ns(l) == 0 || now_ns() < next_eviction_ns(l))) {
      close_doors(l, next_eviction_ns(l), false);
      break;
    }
    int client = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (client < 0 && errno == EAGAIN) break;
    if (client < 0 || !take_client(d, client)) {
      close_doors(l, now_ns() + PAUSE_MS * 1000000ull, true);
      break;
    }
  }
  match(l);
}

static bool open_door(struct lane *l, struct door *d, int fd) {
  // Clients inherit them.
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){CLIENT_BUFFER / 2}, sizeof(int));
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){CLIENT_BUFFER / 2}, sizeof(int));
  d->source = (struct source){.fd = fd, .ready = on_door};
  d->lane = l;
  d->next = l->doors;
  l->doors = d;
  return loop_watch(&d->source, EPOLLIN);
}

bool relay_open_door(struct door *d, int fd) {
  return open_door(r.lanes, d, fd);
}

static void open_service(uint32_t service, int fd) {
  static struct door doors[MOST_SERVICES];
  bool is_new = service >= 1 && service <= MOST_SERVICES && r.lanes[service].doors == NULL;
  if (is_new && !open_door(&r.lanes[service], &doors[service - 1], fd)) _exit(1);
  if (!is_new) close(fd);
}

// ---- DIAL

static void fail_dial(struct connection *c, int error) {
  char text[INET6_ADDRSTRLEN] = "localhost";
  if (!c->to.localhost) inet_ntop(c->to.family, c->to.address, text, sizeof text);
  send_error(c->host.source.fd, error, text);
  end_connection(c);
}

/// 0, EINPROGRESS, or what went wrong.
static int begin_connect(struct connection *c) {
  const struct destination *to = &c->to;
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(to->port)};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(to->port)};
  memcpy(&v4.sin_addr, to->address, sizeof v4.sin_addr);
  memcpy(&v6.sin6_addr, to->address, sizeof v6.sin6_addr);
  int fd = socket(to->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return errno;
  c->program.source.fd = fd;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
  int result = to->family == AF_INET ? connect(fd, (struct sockaddr *)&v4, sizeof v4) : connect(fd, (struct sockaddr *)&v6, sizeof v6);
  return result == 0 ? 0 : errno;
}

/// Goes on after connecting has come so far.
static void on_connected(struct connection *c, int error) {
  if (error == ECONNREFUSED && c->to.localhost && c->to.family == AF_INET) {
    // Many servers that listen on "localhost" do so on ::1 only.
    c->to.family = AF_INET6;
    memcpy(c->to.address, &in6addr_loopback, sizeof c->to.address);
    loop_close(&c->program.source);
    error = begin_connect(c);
  }
  if (error == EINPROGRESS) {
    if (!loop_watch(&c->program.source, EPOLLOUT)) fail_dial(c, ENOMEM);
  } else if (error != 0) {
    // That nothing listens on the second try either, or that there is no IPv6, is not what is wrong.
    fail_dial(c, c->to.localhost && c->to.family == AF_INET6 ? ECONNREFUSED : error);
  } else {
    c->deadline_ns = 0;
    enter(c, RELAYING);
    if (send_ok(c->host.source.fd)) settle(c);
    else end_connection(c);
  }
}

static void take_dial(int host, const struct destination *to) {
  struct connection *c = make_room(r.lanes) ? new_connection(r.lanes, CONNECTING, host, -1) : NULL;
  if (c == NULL) {
    send_error(host, EUSERS, "more connections than there may be");
    close(host);
    return;
  }
  c->to = *to;
  if (to->timeout_ms > 0) set_deadline(c, to->timeout_ms);
  if (!loop_watch(&c->host.source, EPOLLHUP)) fail_dial(c, ENOMEM);
  else on_connected(c, begin_connect(c));
}

// ---- events

static void on_side(struct source *s, uint32_t events) {
  struct side *side = (struct side *)s;
  struct connection *c = side->connection;
  if (c->state == RELAYING) on_relaying(side, events);
  else if (c->state == SILENT) on_silent(c);
  else if (c->state == CONNECTING && side == &c->program) {
    int error = 0;
    socklen_t bytes = sizeof error;
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &bytes) != 0) error = errno;
    // It was connected, and is over already.
    on_connected(c, error == ECONNRESET ? 0 : error);
  } else {
    // Who waits has gone.
    end_connection(c);
  }
}

static void on_handed(struct source *s, uint32_t events) {
  (void)events;
  struct control message;
  int host;
  ssize_t n = receive_message(s->fd, &message, sizeof message, &host);
  // PID 1 has gone, and all with it.
  if (n == 0) _exit(0);
  if (host < 0) return;
  if (n != (ssize_t)sizeof message) close(host);
  else if (message.kind == CONTROL_ACCEPT && message.value < LANES) take_accept(&r.lanes[message.value], host);
  else if (message.kind == CONTROL_DIAL) take_dial(host, &message.to);
  else if (message.kind == CONTROL_LISTEN) open_service(message.value, host);
  else close(host);
}

static void on_deadline(struct connection *c) {
  if (c->state == CONNECTING) fail_dial(c, ETIMEDOUT);
  else end_connection(c);
}

/// Ends those whose time is over. When to do so next; 0: never.
static uint64_t tend_lane(struct lane *l, uint64_t now) {
  if (l->open_ns != 0 && now >= l->open_ns) open_doors(l);
  uint64_t next = l->open_ns;
  for (int state = 0; state < STATES; state++) {
    for (struct connection *c = l->lists[state].first, *after; c != NULL; c = after) {
      after = c->next;
      if (c->deadline_ns == 0) continue;
      if (now >= c->deadline_ns) on_deadline(c);
      else if (next == 0 || c->deadline_ns < next) next = c->deadline_ns;
    }
  }
  return next;
}

/// Ends those of all lanes whose time is over. How long to wait for the next, in ms; -1: for ever.
static int tend_deadlines(void) {
  if (r.next_deadline_ns == 0) return -1;
  uint64_t now = now_ns();
  if (now >= r.next_deadline_ns) {
    r.next_deadline_ns = 0;
    uint64_t next = 0;
    for (struct lane *l = r.lanes; l < r.lanes + LANES; l++) {
      uint64_t of_lane = tend_lane(l, now);
      if (of_lane != 0 && (next == 0 || of_lane < next)) next = of_lane;
    }
    r.next_deadline_ns = next;
  }
  if (r.next_deadline_ns == 0) return -1;
  uint64_t left_ms = (r.next_deadline_ns - now) / 1000000 + 1;
  return left_ms > INT32_MAX ? INT32_MAX : (int)left_ms;
}

/// As many descriptors as there may be, and connections accordingly.
static void arrange_limits(void) {
  enum { OF_SERVICES = MOST_SERVICES * (2 * MOST_OF_SERVICE + MOST_WAITING_FOR_SERVICE) };
  enum { WANTED = 2 * MOST_CONNECTIONS + MOST_WAITING + OTHER_DESCRIPTORS + OF_SERVICES };
  struct rlimit limit = {.rlim_cur = WANTED, .rlim_max = WANTED};
  struct rlimit old;
  if (getrlimit(RLIMIT_NOFILE, &old) != 0) old = (struct rlimit){.rlim_cur = 256, .rlim_max = 256};
  if (old.rlim_max > limit.rlim_max) limit.rlim_max = old.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
    limit.rlim_cur = old.rlim_max < WANTED ? old.rlim_max : WANTED;
    limit.rlim_max = old.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) limit.rlim_cur = old.rlim_cur;
  }
  for (struct lane *l = r.lanes + 1; l < r.lanes + LANES; l++) {
    l->most = MOST_OF_SERVICE;
    l->most_waiting = MOST_WAITING_FOR_SERVICE;
  }
  r.lanes->most_waiting = MOST_WAITING;
  // Where there are fewer, services and the way out do compete.
  r.lanes->most = limit.rlim_cur >= WANTED                             ? MOST_CONNECTIONS
                  : limit.rlim_cur > MOST_WAITING + OTHER_DESCRIPTORS ? (limit.rlim_cur - MOST_WAITING - OTHER_DESCRIPTORS) / 2
                                                                       : 0;
}

void run_relay(int handed) {
  static struct door proxy;
  if (handed != FD_CONN && dup3(handed, FD_CONN, O_CLOEXEC) < 0) _exit(1);
  close_from(first_free_fd());
  close(FD_CONTROL);
  set_handler_signals();
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  arrange_limits();
  r.handed = (struct source){.fd = FD_CONN, .ready = on_handed};
  if (!loop_open() || !loop_watch(&r.handed, EPOLLIN)) _exit(1);
  if (has_proxy() && !relay_open_door(&proxy, FD_PROXY)) _exit(1);
  if (has_capture() && !capture_serve()) _exit(1);
  for (unsigned service = 1; service <= MOST_SERVICES; service++) {
    int fd = FD_SERVICE + (int)service - 1;
    if (has_service(service)) open_service(service, fd);
    else close(fd);
  }
  for (;;) loop_turn(tend_deadlines());
}
