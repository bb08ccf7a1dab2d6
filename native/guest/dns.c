// The name server inside a captured sandbox. It knows no names: to each that is asked for it gives an address of its own, by
// which a later connection says what name it was made for. What the name leads to is the host's to find out, when its rules
// allow that. So no query has to leave, and none does.
#include "capture.h"

#include <arpa/inet.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// RFC 1035, 3.2 and 4.1.1; RFC 6891.
enum { TYPE_A = 1, TYPE_PTR = 12, TYPE_AAAA = 28, TYPE_OPT = 41, TYPE_ANY = 255, CLASS_IN = 1, CLASS_ANY = 255 };
enum { NO_ERROR = 0, FORMAT_ERROR = 1, NO_SUCH_NAME = 3, NOT_IMPLEMENTED = 4, REFUSED = 5, BAD_VERSION = 16 };
enum { HEADER = 12, MAX_LABEL = 63, MAX_WIRE_NAME = 255, POINTER = 0xc0 };
enum { IS_ANSWER = 0x80, IS_AUTHORITATIVE = 0x04, RECURSION_DESIRED = 0x01, CHECKING_DISABLED = 0x10, RECURSION_AVAILABLE = 0x80 };
enum { TTL_S = 60, OUR_UDP_SIZE = 1232 }; // the latter as DNS Flag Day 2020 has it

// ---- names and their addresses

enum { BUCKETS = MOST_NAMES, NONE = UINT32_MAX };

struct entry {
  uint32_t next; // in its bucket
  uint32_t newer, older; // by their last use
  uint8_t bytes;
  char name[MAX_NAME + 1];
};

/// Entry n belongs to the address NAMES_NETWORK + n. When all are taken, the one that was not used for longest is taken over.
static struct {
  bool changing;
  uint32_t count, newest, oldest;
  uint32_t buckets[BUCKETS];
  struct entry entries[MOST_NAMES];
} *table;

bool dns_open(void) {
  // Whoever starts again after having been killed finds what the one before gave out.
  table = mmap(NULL, sizeof *table, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (table == MAP_FAILED) {
    table = NULL;
    return false;
  }
  table->newest = table->oldest = NONE;
  return true;
}

void dns_resume(void) {
  if (table == NULL || !table->changing) return;
  memset(table, 0, sizeof *table);
  table->newest = table->oldest = NONE;
}

/// So that who is killed in between leaves a trace.
static void set_changing(bool changing) {
  atomic_signal_fence(memory_order_seq_cst);
  *(volatile bool *)&table->changing = changing;
  atomic_signal_fence(memory_order_seq_cst);
}

/// A bucket holds the number of its first entry and 1, so that empty memory is an empty table.
static uint32_t *bucket_of(const char *name, size_t bytes) {
  uint32_t hash = 2166136261u; // FNV-1a
  for (size_t i = 0; i < bytes; i++) hash = (hash ^ (unsigned char)name[i]) * 16777619u;
  return &table->buckets[(hash ^ hash >> 16) % BUCKETS];
}

static void unlink_use(struct entry *e) {
  if (e->newer != NONE) table->entries[e->newer].older = e->older;
  else table->newest = e->older;
  if (e->older != NONE) table->entries[e->older].newer = e->newer;
  else table->oldest = e->newer;
}

static void link_newest(uint32_t n) {
  struct entry *e = &table->entries[n];
  e->newer = NONE;
  e->older = table->newest;
  if (table->newest != NONE) table->entries[table->newest].newer = n;
  else table->oldest = n;
  table->newest = n;
}

static void use(uint32_t n) {
  if (table->newest == n) return;
  set_changing(true);
  unlink_use(&table->entries[n]);
  link_newest(n);
  set_changing(false);
}

static uint32_t take_over_oldest(void) {
  uint32_t n = table->oldest;
  struct entry *e = &table->entries[n];
  unlink_use(e);
  uint32_t *link = bucket_of(e->name, e->bytes);
  while (*link != n + 1) link = &table->entries[*link - 1].next;
  *link = e->next;
  return n;
}

static uint32_t address_of(const char *name, size_t bytes) {
  uint32_t *bucket = bucket_of(name, bytes);
  for (uint32_t at = *bucket; at != 0; at = table->entries[at - 1].next) {
    struct entry *e = &table->entries[at - 1];
    if (e->bytes != bytes || memcmp(e->name, name, bytes) != 0) continue;
    use(at - 1);
    return NAMES_NETWORK + at - 1;
  }
  set_changing(true);
  uint32_t n = table->count < MOST_NAMES ? table->count++ : take_over_oldest();
  struct entry *e = &table->entries[n];
  e->bytes = (uint8_t)bytes;
  memcpy(e->name, name, bytes);
  e->name[bytes] = 0;
  e->next = *bucket;
  *bucket = n + 1;
  link_newest(n);
  set_changing(false);
  return NAMES_NETWORK + n;
}

const char *dns_name(uint32_t address) {
  uint32_t n = address - NAMES_NETWORK;
  if (table == NULL || n >= table->count) return NULL;
  use(n);
  return table->entries[n].name;
}

// ---- what a query says

struct input {
  const unsigned char *at, *end;
};

static bool take_u16(struct input *in, unsigned *value) {
  if (in->end - in->at < 2) return false;
  *value = (unsigned)in->at[0] << 8 | in->at[1];
  in->at += 2;
  return true;
}

static bool skip(struct input *in, size_t bytes) {
  if ((size_t)(in->end - in->at) < bytes) return false;
  in->at += bytes;
  return true;
}

/// The question's name in lower case, with its dots and without the last. `plain` is false when it has bytes that no host name
/// has. False when it breaks the format: a name that refers to another is not possible here.
static bool take_name(struct input *in, char name[MAX_NAME + 1], size_t *bytes, bool *plain) {
  *bytes = 0;
  *plain = true;
  for (;;) {
    size_t label = 0;
    if (in->at < in->end) label = *in->at++;
    else return false;
    if (label == 0) break;
    if (label > MAX_LABEL || !skip(in, label) || *bytes + label + 1 > MAX_NAME) return false;
    if (*bytes > 0) name[(*bytes)++] = '.';
    for (const unsigned char *c = in->at - label; c < in->at; c++) {
      unsigned char lower = *c >= 'A' && *c <= 'Z' ? *c + ('a' - 'A') : *c;
      if (!(lower >= 'a' && lower <= 'z') && !(lower >= '0' && lower <= '9') && lower != '-' && lower != '_') *plain = false;
      name[(*bytes)++] = (char)lower;
    }
  }
  name[*bytes] = 0;
  return true;
}

/// Of a record further on, which may refer to one before.
static bool skip_name(struct input *in) {
  while (in->at < in->end) {
    unsigned label = *in->at++;
    if (label == 0) return true;
    if ((label & POINTER) == POINTER) return skip(in, 1);
    if (label > MAX_LABEL || !skip(in, label)) return false;
  }
  return false;
}

struct query {
  char name[MAX_NAME + 1];
  size_t name_bytes;
  bool plain;
  unsigned type, class;
  size_t question_bytes;
  bool extended; // it has an OPT record
  unsigned version; // of that
};

/// Looks for an OPT record among those at the end. False when they break the format.
static bool take_records(struct input *in, unsigned count, struct query *q) {
  for (; count > 0; count--) {
    unsigned type, class, high, low, bytes;
    bool at_root = in->at < in->end && *in->at == 0;
    if (!skip_name(in) || !take_u16(in, &type) || !take_u16(in, &class) || !take_u16(in, &high) || !take_u16(in, &low) ||
        !take_u16(in, &bytes) || !skip(in, bytes))
      return false;
    if (type != TYPE_OPT) continue;
    if (q->extended || !at_root) return false;
    q->extended = true;
    q->version = high & 0xff;
  }
  return true;
}

/// The code that it is answered with, so far.
static unsigned take_query(const unsigned char *bytes, size_t count, struct query *q) {
  struct input in = {bytes + HEADER, bytes + count};
  unsigned questions = (unsigned)bytes[4] << 8 | bytes[5], additional = (unsigned)bytes[10] << 8 | bytes[11];
  if ((bytes[2] & 0x78) != 0) return NOT_IMPLEMENTED;
  // Neither answers nor authorities belong into a query.
  if (questions != 1 || bytes[6] != 0 || bytes[7] != 0 || bytes[8] != 0 || bytes[9] != 0) return FORMAT_ERROR;
  if (!take_name(&in, q->name, &q->name_bytes, &q->plain) || !take_u16(&in, &q->type) || !take_u16(&in, &q->class))
    return FORMAT_ERROR;
  q->question_bytes = (size_t)(in.at - bytes) - HEADER;
  if (!take_records(&in, additional, q)) return FORMAT_ERROR;
  if (q->version != 0) return BAD_VERSION;
  return q->class == CLASS_IN || q->class == CLASS_ANY ? NO_ERROR : REFUSED;
}

// ---- the answer

struct output {
  unsigned char *start, *at;
};

static void put_u16(struct output *o, unsigned value) {
  *o->at++ = (unsigned char)(value >> 8);
  *o->at++ = (unsigned char)value;
}

/// A record of the question's name, up to its data.
static void put_record(struct output *o, unsigned type, size_t bytes) {
  put_u16(o, POINTER << 8 | HEADER);
  put_u16(o, type);
  put_u16(o, CLASS_IN);
  put_u16(o, 0);
  put_u16(o, TTL_S);
  put_u16(o, (unsigned)bytes);
}

static void put_address(struct output *o, uint32_t address) {
  put_record(o, TYPE_A, sizeof address);
  put_u16(o, address >> 16);
  put_u16(o, address & 0xffff);
}

static void put_pointer(struct output *o, const char *name) {
  size_t bytes = strlen(name);
  put_record(o, TYPE_PTR, bytes + 2);
  for (const char *label = name; bytes > 0;) {
    size_t length = strcspn(label, ".");
    *o->at++ = (unsigned char)length;
    memcpy(o->at, label, length);
    o->at += length;
    bytes -= label[length] == 0 ? length : length + 1;
    label += length + 1;
  }
  *o->at++ = 0;
}

static bool is_below(const struct query *q, const char *domain) {
  size_t bytes = strlen(domain);
  if (q->name_bytes < bytes || strcmp(q->name + q->name_bytes - bytes, domain) != 0) return false;
  return q->name_bytes == bytes || q->name[q->name_bytes - bytes - 1] == '.';
}

static bool is_own_name(const struct query *q) {
  char own[MAX_NAME + 1] = "";
  return gethostname(own, sizeof own - 1) == 0 && strcasecmp(own, q->name) == 0;
}

/// The name of the address in `4.3.2.1.in-addr.arpa`; NULL: none.
static const char *reverse(const struct query *q) {
  unsigned a, b, c, d;
  int used = 0;
  if (q->type != TYPE_PTR && q->type != TYPE_ANY) return NULL;
  if (sscanf(q->name, "%3u.%3u.%3u.%3u.in-addr.arpa%n", &d, &c, &b, &a, &used) != 4 || (size_t)used != q->name_bytes) return NULL;
  if (a > 255 || b > 255 || c > 255 || d > 255) return NULL;
  return a == IN_LOOPBACKNET ? "localhost" : dns_name(a << 24 | b << 16 | c << 8 | d);
}

/// A name that hosts may have: its last label is no number, which would make it an address.
static bool is_host_name(const struct query *q) {
  const char *dot = strrchr(q->name, '.');
  const char *last = dot == NULL ? q->name : dot + 1;
  return q->plain && q->name_bytes > 0 && last[strspn(last, "0123456789")] != 0;
}

/// Puts what there is to say; the code to say it with.
static unsigned put_answers(struct output *o, const struct query *q, unsigned *count) {
  bool asks_address = q->type == TYPE_A || q->type == TYPE_ANY;
  *count = 0;
  // The root and `arpa` exist, and have nothing of what is asked for.
  if (q->name_bytes == 0) return NO_ERROR;
  if (is_below(q, "arpa")) {
    const char *name = reverse(q);
    if (name == NULL) return NO_SUCH_NAME;
    put_pointer(o, name);
    *count = 1;
    return NO_ERROR;
  }
  // RFC 6761.
  if (is_below(q, "invalid") || !is_host_name(q)) return NO_SUCH_NAME;
  bool is_local = is_below(q, "localhost");
  if (is_local && q->type == TYPE_AAAA) {
    static const unsigned char loopback[16] = {[15] = 1};
    put_record(o, TYPE_AAAA, sizeof loopback);
    memcpy(o->at, loopback, sizeof loopback);
    o->at += sizeof loopback;
    *count = 1;
  } else if (asks_address) {
    put_address(o, is_local ? INADDR_LOOPBACK : is_own_name(q) ? OWN_ADDRESS : address_of(q->name, q->name_bytes));
    *count = 1;
  }
  return NO_ERROR;
}

size_t dns_answer(const unsigned char *query, size_t bytes, unsigned char answer[MAX_ANSWER]) {
  // An answer to an answer could go on for ever.
  if (table == NULL || bytes < HEADER || (query[2] & IS_ANSWER) != 0) return 0;
  struct query q = {0};
  unsigned count = 0, code = take_query(query, bytes, &q);
  struct output o = {answer, answer + HEADER};
  // What was not understood is not repeated either.
  bool repeats = code != FORMAT_ERROR && code != NOT_IMPLEMENTED;
  if (repeats) {
    memcpy(o.at, query + HEADER, q.question_bytes);
    o.at += q.question_bytes;
  }
  if (code == NO_ERROR) code = put_answers(&o, &q, &count);
  if (q.extended) {
    *o.at++ = 0;
    put_u16(&o, TYPE_OPT);
    put_u16(&o, OUR_UDP_SIZE);
    put_u16(&o, code >> 4 << 8);
    put_u16(&o, 0);
    put_u16(&o, 0);
  }
  unsigned char flags = IS_ANSWER | (code == NO_ERROR ? IS_AUTHORITATIVE : 0) | (query[2] & (0x78 | RECURSION_DESIRED));
  const unsigned char header[HEADER] = {
    query[0], query[1], flags, (unsigned char)(RECURSION_AVAILABLE | (query[3] & CHECKING_DISABLED) | (code & 15)),
    0, repeats, 0, (unsigned char)count, 0, 0, 0, q.extended};
  memcpy(answer, header, sizeof header);
  return (size_t)(o.at - o.start);
}
