/*
 * An exhaustive search through the interleavings of the real transition code. Three processes are coroutines that hand
 * over before every access to shared memory; the search tries each of them at each point, and the death of each at each
 * point, and remembers every state (table, stacks, registers) that it has seen. In every state the invariants of
 * docs/lifecycle.md hold; in every last state a sweep leads back to FREE everywhere; and nobody sleeps for ever unless
 * somebody died (no lost wake-up).
 *
 * Memory is sequentially consistent here: orders are argued for in docs/lifecycle.md and watched by the thread
 * sanitizer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

#include <cmocka.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/futex.h"
#include "common/fake_table.h"
#include "lifecycle/words.h"

#if defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#define PROCESSES 3
#define FOUNDER (PROCESSES + 1) /* made what is there before the search; lives until its end */
#define SURVIVOR (PROCESSES + 2)
#define STACK_BYTES (64 << 10)
#define BELOW 256 /* bytes that park() may use below its frame's address */
#define EXPORT_SLOTS 3
#define LEASE_SLOTS 3

typedef enum { RUNNING, ASLEEP, DONE, DEAD } status_t;

typedef struct {
    jmp_buf at;
    char *low; /* the lowest live byte of the stack */
    status_t status;
    const void *futex; /* slept on */
    bool preparing;    /* between "you prepare" and the end of that */
    bool timed_out;
    uint32_t seen_futex;
} process_t;

/* All that a state consists of, but for the stacks and the table. */
static struct {
    process_t process[PROCESSES];
    int deaths_left;
    bool death;
    bool founder_died;
    uint64_t files[EXPORT_SLOTS]; /* one bit for each generation: its file has its name */
} world;

static char *stacks[PROCESSES];
static tpv_table_t *table;
static int current = -1; /* the process that runs; -1: the search itself */
static jmp_buf search;
static void (*programs[PROCESSES])(unsigned self);
static char fault[256];
static uint64_t states, ends;
static bool with_files;

static void must(bool condition, const char *what) {
    if (!condition && !fault[0]) snprintf(fault, sizeof fault, "process %d: %s", current, what);
}

/* ---- coroutines ---- */

static void __attribute__((noinline)) park(void) {
    if (current < 0) abort(); /* the search itself never waits */
    process_t *process = &world.process[current];
    process->low = (char *)__builtin_frame_address(0) - BELOW;
    if (_setjmp(process->at) == 0) _longjmp(search, 1);
}

void tpv_model_step(void) {
    if (current >= 0) park();
}

static void resume(int index) {
    current = index;
    fake_self = (uint64_t)index + 1;
    if (_setjmp(search) == 0) _longjmp(world.process[index].at, 1);
    current = -1;
}

static void body(int index) {
    park();
    programs[index]((unsigned)index);
    world.process[index].status = DONE;
    for (;;)
        park();
}

static void start(int index) {
    static ucontext_t context, back;
    memset(stacks[index], 0, STACK_BYTES);
    getcontext(&context);
    context.uc_stack.ss_sp = stacks[index];
    context.uc_stack.ss_size = STACK_BYTES;
    context.uc_link = &back;
    makecontext(&context, (void (*)(void))body, 1, index);
    current = index;
    if (_setjmp(search) == 0) swapcontext(&back, &context);
    current = -1;
}

/* The table's futexes, in this world. A sleep ends by a wake, or by time when nobody can move any more. */
tpv_status_t tpv_futex_wait(const void *word, uint32_t expected, int64_t deadline_ns) {
    (void)deadline_ns;
    tpv_model_step();
    if ((uint32_t)atomic_load((const tpv_word_t *)word) != expected) return TPV_OK;
    process_t *process = &world.process[current];
    process->futex = word;
    process->status = ASLEEP;
    park();
    if (!process->timed_out) return TPV_OK;
    process->timed_out = false;
    return TPV_ERR_DEADLINE;
}

void tpv_futex_wake(const void *word) {
    if (current < 0) return;
    tpv_model_step();
    for (int i = 0; i < PROCESSES; i++)
        if (world.process[i].status == ASLEEP && world.process[i].futex == word) world.process[i].status = RUNNING;
}

/* Time stands still, lest it tell two states apart. */
int clock_gettime(clockid_t clock, struct timespec *now) {
    (void)clock;
    *now = (struct timespec){.tv_sec = 1000};
    return 0;
}

static bool alive(uint64_t process) {
    if (process == FOUNDER) return !world.founder_died;
    if (process == SURVIVOR) return true;
    return process >= 1 && process <= PROCESSES && world.process[process - 1].status != DEAD;
}

/* ---- states ---- */

typedef struct {
    char *bytes;
    size_t used;
} snapshot_t;

static size_t live_bytes(int index) {
    return (size_t)(stacks[index] + STACK_BYTES - world.process[index].low);
}

static snapshot_t save(void) {
    size_t bytes = sizeof world + table->bytes;
    for (int i = 0; i < PROCESSES; i++)
        bytes += live_bytes(i);
    snapshot_t snapshot = {.bytes = malloc(bytes), .used = 0};
    assert_non_null(snapshot.bytes);
    char *to = snapshot.bytes;
    memcpy(to, &world, sizeof world);
    to += sizeof world;
    memcpy(to, table->header, table->bytes);
    to += table->bytes;
    for (int i = 0; i < PROCESSES; i++) {
        memcpy(to, world.process[i].low, live_bytes(i));
        to += live_bytes(i);
    }
    snapshot.used = bytes;
    return snapshot;
}

static void restore(const snapshot_t *snapshot) {
    const char *from = snapshot->bytes;
    memcpy(&world, from, sizeof world);
    from += sizeof world;
    memcpy(table->header, from, table->bytes);
    from += table->bytes;
    for (int i = 0; i < PROCESSES; i++) {
        memcpy(world.process[i].low, from, live_bytes(i));
        from += live_bytes(i);
    }
}

/* The stack of who is dead or done and the counters make no difference. */
static uint64_t hash_state(void) {
    static XXH3_state_t *hash;
    if (!hash) hash = XXH3_createState();
    XXH3_64bits_reset(hash);
    for (int i = 0; i < PROCESSES; i++) {
        const process_t *process = &world.process[i];
        XXH3_64bits_update(hash, &process->status, sizeof process->status);
        if (process->status == DEAD || process->status == DONE) continue;
        XXH3_64bits_update(hash, process, sizeof *process);
        XXH3_64bits_update(hash, process->low, live_bytes(i));
    }
    XXH3_64bits_update(hash, &world.deaths_left, sizeof world.deaths_left);
    XXH3_64bits_update(hash, world.files, sizeof world.files);
    XXH3_64bits_update(hash, (const char *)table->header, offsetof(tpv_table_header_t, counters));
    XXH3_64bits_update(hash, table->header + 1, table->bytes - sizeof *table->header);
    return XXH3_64bits_digest(hash);
}

static uint64_t *seen;
static size_t seen_room;

static bool is_new(uint64_t hash) {
    if (hash == 0) hash = 1;
    if (2 * (states + 1) > seen_room) {
        size_t room = seen_room ? 2 * seen_room : 1 << 20;
        uint64_t *more = calloc(room, sizeof *more);
        assert_non_null(more);
        for (size_t i = 0; i < seen_room; i++) {
            size_t at = seen[i] & (room - 1);
            while (seen[i] && more[at])
                at = (at + 1) & (room - 1);
            if (seen[i]) more[at] = seen[i];
        }
        free(seen);
        seen = more;
        seen_room = room;
    }
    size_t at = hash & (seen_room - 1);
    while (seen[at]) {
        if (seen[at] == hash) return false;
        at = (at + 1) & (seen_room - 1);
    }
    seen[at] = hash;
    states++;
    return true;
}

/* ---- what must hold ---- */

static uint64_t lease_field(const tpv_lease_slot_t *lease, size_t offset) {
    return atomic_load(&lease->record[offset / 8]);
}

/* A file has its name from before its export is READY until no lease is left, and no longer than its slot is in use. */
static void check_files(uint32_t e, const tpv_export_slot_t *export, uint64_t word) {
    uint64_t own = UINT64_C(1) << atomic_load(&export->head.generation);
    tpv_export_state_t state = tpv_export_word_state(word);
    if (state == TPV_EXPORT_FREE || state == TPV_EXPORT_FAILED) own = 0;
    must((world.files[e] & ~own) == 0, "a file is left");
    bool held = state == TPV_EXPORT_READY || state == TPV_EXPORT_DRAINING ||
                (state == TPV_EXPORT_CLOSED && tpv_export_word_active(word) > 0);
    if (held && atomic_load(&export->owner) == TPV_OWNER_FILE) must(world.files[e] == own, "a file is gone");
}

/* Written anew and not with the checker's code: one may be wrong where the other is right. */
static void check_state(void) {
    uint64_t offered[EXPORT_SLOTS] = {0};
    for (uint32_t e = 0; e < EXPORT_SLOTS; e++) {
        tpv_export_slot_t *export = tpv_table_export(table, e);
        uint64_t word = atomic_load(&export->head.word);
        int active = 0;
        for (uint32_t i = 0; i < LEASE_SLOTS; i++) {
            const tpv_lease_slot_t *lease = tpv_table_lease(table, i);
            tpv_lease_state_t state = tpv_lease_word_state(atomic_load(&lease->head.word));
            if (lease_field(lease, offsetof(tpv_lease_record_t, export_slot)) != e) continue;
            active += state >= TPV_LEASE_GRANTED && state <= TPV_LEASE_ENDING;
            active += state == TPV_LEASE_OPENING && tpv_export_word_step(word) == tpv_step_begun(i);
            active -= state == TPV_LEASE_ENDING && tpv_export_word_step(word) == tpv_step_ended(i);
            tpv_export_state_t of = tpv_export_word_state(word);
            if (state < TPV_LEASE_GRANTED || state > TPV_LEASE_REVOKED) continue;
            must(of == TPV_EXPORT_READY || of == TPV_EXPORT_DRAINING || of == TPV_EXPORT_CLOSED,
                 "a lease on an export that is gone");
            must(lease_field(lease, offsetof(tpv_lease_record_t, export_generation)) ==
                     atomic_load(&export->head.generation),
                 "a lease on a later export");
        }
        must((int)tpv_export_word_active(word) == active, "active is wrong");
        check_files(e, export, word);
        tpv_export_state_t state = tpv_export_word_state(word);
        if (state == TPV_EXPORT_PENDING || state == TPV_EXPORT_READY || state == TPV_EXPORT_FAILED) {
            offered[e] = atomic_load(&export->head.key_hash);
            tpv_export_record_t record;
            tpv_words_load(&record, export->record, sizeof record);
            must(XXH3_64bits(&record, offsetof(tpv_export_record_t, label)) == offered[e], "half a key is offered");
        }
        for (uint32_t other = 0; other < e; other++)
            must(offered[e] == 0 || offered[e] != offered[other], "two exports of one key");
    }
    uint64_t ids[LEASE_SLOTS] = {0};
    for (uint32_t i = 0; i < LEASE_SLOTS; i++) {
        const tpv_slot_head_t *head = &tpv_table_lease(table, i)->head;
        tpv_lease_state_t state = tpv_lease_word_state(atomic_load(&head->word));
        if (state >= TPV_LEASE_OPENING && state <= TPV_LEASE_REVOKED) ids[i] = atomic_load(&head->key_hash);
        for (uint32_t other = 0; other < i; other++)
            must(ids[i] == 0 || ids[i] != ids[other], "two leases of one id");
    }
    int preparing = 0;
    for (int i = 0; i < PROCESSES; i++)
        preparing += world.process[i].preparing && world.process[i].status != DEAD;
    must(preparing <= 1, "two processes prepare one view");
}

/* Everybody is done, dead or asleep for good: when all processes are gone, a sweep leaves nothing. */
static void check_end(void) {
    ends++;
    for (int i = 0; i < PROCESSES; i++)
        world.process[i].status = DEAD;
    world.founder_died = true;
    fake_self = SURVIVOR;
    tpv_sweep_report_t report;
    tpv_table_sweep(table, &report);
    check_state();
    if (with_files) { /* they outlive everybody, for their time */
        fake_now += 10 * FAKE_SECOND;
        tpv_table_sweep(table, &report);
        check_state();
        fake_now -= 10 * FAKE_SECOND;
    }
    for (uint32_t e = 0; e < EXPORT_SLOTS; e++) {
        const tpv_slot_head_t *head = &tpv_table_export(table, e)->head;
        must(tpv_export_word_state(atomic_load(&head->word)) == TPV_EXPORT_FREE, "an export is left");
        must(atomic_load(&head->actor) == 0, "an export slot is held");
    }
    for (uint32_t i = 0; i < LEASE_SLOTS; i++) {
        const tpv_slot_head_t *head = &tpv_table_lease(table, i)->head;
        must(tpv_lease_word_state(atomic_load(&head->word)) == TPV_LEASE_FREE, "a lease is left");
        must(atomic_load(&head->actor) == 0, "a lease slot is held");
    }
}

/* ---- the search ---- */

static void explore(void);

static void visit(const snapshot_t *from) {
    check_state();
    if (!fault[0] && is_new(hash_state())) explore();
    restore(from);
}

static void explore(void) {
    snapshot_t here = save();
    bool moved = false;
    for (int i = 0; i < PROCESSES && !fault[0]; i++) {
        if (world.process[i].status != RUNNING) continue;
        moved = true;
        resume(i);
        visit(&here);
    }
    for (int i = 0; i < PROCESSES && !fault[0] && world.deaths_left > 0; i++) {
        if (world.process[i].status != RUNNING && world.process[i].status != ASLEEP) continue;
        world.process[i].status = DEAD;
        world.death = true;
        world.deaths_left--;
        visit(&here);
    }
    bool asleep = false;
    for (int i = 0; i < PROCESSES && !fault[0] && !moved; i++) {
        if (world.process[i].status != ASLEEP) continue;
        asleep = true;
        must(world.death, "asleep, and nobody left to wake it");
        world.process[i].status = RUNNING;
        world.process[i].timed_out = true;
        visit(&here);
    }
    if (!moved && !asleep && !fault[0]) {
        check_end();
        restore(&here);
    }
    free(here.bytes);
}

typedef void (*program_t)(unsigned self);

/* All interleavings of three programs with up to `deaths` deaths, from the table that `prepare` leaves. */
static void search_all(const char *what, int deaths, void (*prepare)(void), program_t a, program_t b, program_t c) {
    memset(&world, 0, sizeof world);
    fault[0] = '\0';
    states = ends = 0;
    free(seen);
    seen = NULL;
    seen_room = 0;
    table = fake_table_new(EXPORT_SLOTS, LEASE_SLOTS);
    table->alive = alive;
    world.deaths_left = deaths;
    fake_self = FOUNDER;
    if (prepare) prepare();
    programs[0] = a;
    programs[1] = b;
    programs[2] = c;
    for (int i = 0; i < PROCESSES; i++) {
        stacks[i] = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_true(stacks[i] != MAP_FAILED);
        start(i);
    }
    explore();
    print_message("%s, %d deaths: %llu states, %llu ends\n", what, deaths, (unsigned long long)states,
                  (unsigned long long)ends);
    for (int i = 0; i < PROCESSES; i++)
        munmap(stacks[i], STACK_BYTES);
    fake_table_free(table);
    if (fault[0]) fail_msg("%s", fault);
    assert_true(ends > 0);
}

/* ---- programs ---- */

static const tpv_export_key_t one_key = {.artifact_id = "0123456789abcdef0123456789abcdef",
                                         .view_id = "00000000000000000000000000000001",
                                         .device = "host",
                                         .label = "model@1"};
static tpv_export_t ready; /* made before the search, as these are */
static tpv_lease_t held[2];
static bool full; /* MODEL=full: minutes instead of seconds */

static void idle(unsigned self) {
    (void)self;
}

/* Ask for the view; prepare it when told to. */
static tpv_export_t get(unsigned self) {
    tpv_export_t export;
    tpv_export_role_t role;
    must(tpv_export_acquire(table, &one_key, TPV_DEADLINE_NEVER, &export, &role) == TPV_OK, "acquire");
    if (role == TPV_EXPORT_PREPARE) {
        world.process[self].preparing = true;
        tpv_model_step();
        world.process[self].preparing = false;
        must(tpv_export_publish(table, export, 1, FAKE_SECOND) == TPV_OK, "publish");
    }
    return export;
}

static void ask(unsigned self) {
    get(self);
}

static void ask_another(unsigned self) {
    tpv_export_key_t key = one_key;
    key.view_id = "00000000000000000000000000000002";
    tpv_export_t export;
    tpv_export_role_t role;
    must(tpv_export_find(table, &key, &export, &role) == TPV_OK, "find");
    must(role == TPV_EXPORT_PREPARE, "the other view is there already");
    must(tpv_export_abandon(table, export) == TPV_OK, "abandon");
    (void)self;
}

static void ask_and_give_up(unsigned self) {
    tpv_export_t export;
    tpv_export_role_t role;
    must(tpv_export_acquire(table, &one_key, TPV_DEADLINE_NEVER, &export, &role) == TPV_OK, "acquire");
    if (role != TPV_EXPORT_PREPARE) return;
    world.process[self].preparing = true;
    tpv_model_step();
    world.process[self].preparing = false;
    must(tpv_export_abandon(table, export) == TPV_OK, "abandon");
}

static void lease_with_id(const char *id, tpv_export_t export) {
    tpv_lease_request_t request = {.lease_id = id, .ttl_ns = FAKE_SECOND, .tp_size = 1};
    tpv_lease_t lease;
    tpv_status_t status = tpv_lease_begin(table, export, &request, &lease);
    if (status == TPV_OK) {
        status = tpv_lease_attach(table, lease);
        if (status == TPV_OK) must(tpv_lease_end(table, lease), "end");
    }
    must(status == TPV_OK || status == TPV_ERR_STALE || status == TPV_ERR_REFUSED || status == TPV_ERR_NO_SPACE,
         "lease");
}

static void lease(unsigned self) {
    static const char *const ids[] = {"00000000000000000000000000000001", "00000000000000000000000000000002",
                                      "00000000000000000000000000000003"};
    lease_with_id(ids[self], ready);
}

static void begin_same(unsigned self) {
    (void)self;
    tpv_lease_request_t request = {
        .lease_id = "0000000000000000000000000000000a", .owner = FOUNDER, .ttl_ns = FAKE_SECOND, .tp_size = 1};
    tpv_lease_t lease_made;
    tpv_status_t status = tpv_lease_begin(table, ready, &request, &lease_made);
    must(status == TPV_OK || status == TPV_ERR_STALE || status == TPV_ERR_REFUSED, "begin");
    if (status == TPV_OK) tpv_lease_end(table, lease_made);
}

static void sweep(unsigned self) {
    (void)self;
    tpv_table_sweep(table, NULL);
}

static void retire(unsigned self) {
    (void)self;
    must(tpv_export_withdraw(table, ready) == TPV_OK, "withdraw");
    must(tpv_export_close(table, ready) == TPV_OK, "close");
    must(tpv_export_wait_idle(table, ready, TPV_DEADLINE_NEVER) == TPV_OK, "wait");
    must(tpv_export_free(table, ready) == TPV_OK, "free");
}

static void end_first(unsigned self) {
    (void)self;
    tpv_lease_end(table, held[0]);
}

static void end_second(unsigned self) {
    (void)self;
    tpv_lease_end(table, held[1]);
}

static void begin_third(unsigned self) {
    (void)self;
    tpv_lease_request_t request = {.lease_id = "00000000000000000000000000000003", .ttl_ns = FAKE_SECOND, .tp_size = 1};
    tpv_lease_t third;
    tpv_status_t status = tpv_lease_begin(table, ready, &request, &third);
    must(status == TPV_OK || status == TPV_ERR_STALE || status == TPV_ERR_REFUSED, "begin");
}

static void follow(unsigned self) {
    tpv_export_role_t role;
    tpv_status_t status = tpv_export_wait(table, ready, TPV_DEADLINE_NEVER, &role);
    must(status == TPV_OK || status == TPV_ERR_STALE, "wait");
    if (status != TPV_OK || role != TPV_EXPORT_PREPARE) return;
    world.process[self].preparing = true;
    tpv_model_step();
    world.process[self].preparing = false;
    must(tpv_export_publish(table, ready, 1, FAKE_SECOND) == TPV_OK, "publish");
}

/* The file of an export gets its name, which nothing may have by then. */
static void name_file(tpv_export_t export) {
    tpv_model_step();
    must(!(world.files[export.slot] >> export.generation & 1), "the name is taken");
    world.files[export.slot] |= UINT64_C(1) << export.generation;
}

static bool erase(const tpv_table_t *of, uint32_t slot, uint64_t generation) {
    (void)of;
    tpv_model_step();
    world.files[slot] &= ~(UINT64_C(1) << generation);
    return true;
}

static tpv_export_t get_file(unsigned self) {
    tpv_export_t export;
    tpv_export_role_t role;
    must(tpv_export_acquire(table, &one_key, TPV_DEADLINE_NEVER, &export, &role) == TPV_OK, "acquire");
    if (role == TPV_EXPORT_PREPARE) {
        world.process[self].preparing = true;
        name_file(export);
        world.process[self].preparing = false;
        must(tpv_export_publish_file(table, export, 1, FAKE_SECOND) == TPV_OK, "publish");
    }
    return export;
}

static void ask_file(unsigned self) {
    get_file(self);
}

/* Fetch or find the file, then read it. */
static void share_file(unsigned self) {
    lease_with_id(self == 0 ? "00000000000000000000000000000001" : "00000000000000000000000000000002", get_file(self));
}

static void read_file(unsigned self) {
    (void)self;
    lease_with_id("00000000000000000000000000000003", ready);
}

static void evict(unsigned self) {
    (void)self;
    if (!tpv_export_withdraw_idle(table, ready, TPV_EXPORT_EVICTED)) return;
    must(tpv_export_close(table, ready) != TPV_ERR_REFUSED, "close");
    tpv_export_free(table, ready);
}

/* ---- what is searched ---- */

static void make_file(void) {
    tpv_export_role_t role;
    table->erase = erase;
    must(tpv_export_find(table, &one_key, &ready, &role) == TPV_OK && role == TPV_EXPORT_PREPARE, "find");
    world.files[ready.slot] |= UINT64_C(1) << ready.generation;
    must(tpv_export_publish_file(table, ready, 1, FAKE_SECOND) == TPV_OK, "publish");
}

static void make_no_file(void) {
    table->erase = erase;
}

static void make_old_file(void) {
    make_file();
    fake_now += 2 * FAKE_SECOND;
}

static void make_ready(void) {
    ready = fake_ready(table, 1);
}

/* Two leases of the founder, one of them attached. */
static void make_leases(void) {
    make_ready();
    for (unsigned i = 0; i < 2; i++) {
        tpv_lease_request_t request = fake_request(i + 11, FAKE_SECOND);
        must(tpv_lease_begin(table, ready, &request, &held[i]) == TPV_OK, "begin");
    }
    must(tpv_lease_attach(table, held[0]) == TPV_OK, "attach");
}

/* The first is over, and its slot may be used again. */
static void make_expired(void) {
    make_leases();
    fake_now += 2 * FAKE_SECOND;
    must(tpv_lease_attach(table, held[1]) == TPV_OK, "attach");
}

/* Both are left behind. */
static void make_orphans(void) {
    make_leases();
    world.founder_died = true;
    world.death = true;
}

static void make_abandoned(void) {
    tpv_export_role_t role;
    must(tpv_export_find(table, &one_key, &ready, &role) == TPV_OK && role == TPV_EXPORT_PREPARE, "find");
    world.founder_died = true;
    world.death = true;
}

/* The founder announced an export and died before anybody moved it out of FREE. */
static void make_announced(void) {
    make_abandoned();
    tpv_word_t *word = &tpv_table_export(table, ready.slot)->head.word;
    uint64_t announced = atomic_load(word);
    atomic_store(word, (announced - TPV_WORD_VERSION_ONE) & TPV_EXPORT_VERSION_MASK);
}

static void creating(void **state) {
    (void)state;
    search_all("two ask for one view", 2, NULL, ask, ask, idle);
    search_all("one gives up", 1, NULL, ask_and_give_up, ask, idle);
    search_all("one creates in the place of a dead creator", 1, make_announced, ask_another, ask, idle);
    if (!full) return;
    search_all("three ask for one view", 0, NULL, ask, ask, ask);
    search_all("three ask for one view", 1, NULL, ask, ask, ask);
}

static void following_the_dead(void **state) {
    (void)state;
    search_all("three wait for a dead one", 2, make_abandoned, follow, follow, follow);
    search_all("two wait for a dead one, one sweeps", 2, make_abandoned, follow, follow, sweep);
}

static void counting(void **state) {
    (void)state;
    search_all("three end two leases", 2, make_leases, end_first, end_second, end_first);
    search_all("two end, one begins", 1, make_leases, end_first, end_second, begin_third);
    search_all("two leases", 2, make_ready, lease, lease, idle);
    search_all("a lease on what is being published", 1, make_abandoned, follow, begin_third, sweep);
    search_all("a lease and a sweep", 1, make_ready, lease, sweep, idle);
    search_all("an expired lease: end, sweep, sweep", 1, make_expired, end_first, sweep, sweep);
    search_all("two end the leases of a dead one, one sweeps", 0, make_orphans, end_first, end_second, sweep);
    search_all("one id twice", 1, make_ready, begin_same, begin_same, idle);
    if (!full) return;
    search_all("two end the leases of a dead one, one sweeps", 2, make_orphans, end_first, end_second, sweep);
    search_all("an end and two sweeps at the leases of a dead one", 1, make_orphans, end_first, sweep, sweep);
    search_all("two leases and an end", 1, make_leases, lease, lease, end_first);
    search_all("a lease, an end, a sweep", 2, make_expired, lease, end_first, sweep);
}

static void retiring(void **state) {
    (void)state;
    search_all("a lease and a retirement", 2, make_ready, lease, retire, idle);
    search_all("two end, one retires", 2, make_leases, end_first, end_second, retire);
    if (!full) return;
    search_all("a lease, an end, a retirement", 2, make_leases, lease, end_first, retire);
    search_all("retirement while one asks and one leases", 1, make_ready, ask, lease, retire);
}

static void sharing_files(void **state) {
    (void)state;
    with_files = true;
    search_all("two ask for one file", 2, make_no_file, ask_file, ask_file, idle);
    search_all("a file is read while its time is over", 1, make_old_file, read_file, sweep, idle);
    search_all("a file is asked for while its time is over", 1, make_old_file, ask_file, sweep, idle);
    search_all("a file is read, evicted and swept", 1, make_old_file, read_file, evict, sweep);
    if (full) {
        search_all("two ask for one file and a sweep", 1, make_no_file, ask_file, ask_file, sweep);
        search_all("two ask for an old file", 2, make_old_file, ask_file, ask_file, idle);
        search_all("two fetch and read one file", 1, make_no_file, share_file, share_file, idle);
        search_all("two read one file and a sweep", 1, make_file, read_file, share_file, sweep);
    }
    with_files = false;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(creating), cmocka_unit_test(following_the_dead), cmocka_unit_test(counting),
        cmocka_unit_test(retiring), cmocka_unit_test(sharing_files),
    };
    if (SANITIZED) return 77; /* sanitizers do not follow stacks that are copied */
    const char *mode = getenv("MODEL");
    full = mode && strcmp(mode, "full") == 0;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
