/* The same-host transport: when it is chosen, what it falls back to, and what peers that vanish, close early or
 * scribble into the shared memory can do to each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "common/child.h"
#include "common/net_plugin.h"
#include "local/segment.h"

#define BIG ((size_t)3 << 20)
#define BY_PULLING "on this host (127.0.0.1:"
#define NOBODY 65534

static net_plugin_t net;

/* ---- two processes, each set up in its own way ---- */

typedef struct {
    const char *local;             /* TPVIEW_NET_LOCAL */
    void (*prepare)(void);         /* before the plugin is loaded */
    void (*between)(void);         /* when a first message has moved */
    const char *log, *log_between; /* what the plugin's log must have; NULL: no word of this host */
} side_t;

typedef struct {
    side_t sender, receiver;
    int handle[2];
} duo_t;

static bool log_is(const char *expected) {
    bool good = expected ? net_log_count(expected) == 1 : net_log_count("this host") == 0;
    if (!good) fprintf(stderr, "expected \"%s\" in the log:\n%s", expected ? expected : "nothing", net_log_text());
    return good;
}

static void begin_side(const side_t *side) {
    setenv("TPVIEW_NET_LOCAL", side->local, 1);
    if (side->prepare) side->prepare();
    CHILD_CHECK(net_plugin_open(&net, net_plugin_path(NULL), NET_NEWEST) == ncclSuccess);
}

static void move(bool sends, void *comm, char *block, size_t size, uint64_t seed) {
    void *request;
    int moved = -1;
    if (sends) net_fill(block, size, seed);
    CHILD_CHECK((sends ? net_isend(&net, comm, block, size, &request) : net_irecv(&net, comm, block, size, &request)) ==
                ncclSuccess);
    CHILD_CHECK(net_wait(&net, request, 20, &moved) == ncclSuccess);
    CHILD_CHECK((size_t)moved == size && (sends || net_check(block, size, seed)));
}

static void move_all(const side_t *side, bool sends, void *comm) {
    static const size_t sizes[] = {0, 1, 4096, 4097, 65536, BIG};
    char *block = malloc(BIG);
    for (uint64_t round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            move(sends, comm, block, sizes[i], round * 100 + i);
        if (round == 0) CHILD_CHECK(log_is(side->log));
        if (round == 0 && side->between) side->between();
    }
    if (side->log_between) CHILD_CHECK(log_is(side->log_between));
    free(block);
}

static int be_receiver(void *argument) {
    duo_t *duo = argument;
    char handle[NCCL_NET_HANDLE_MAXSIZE];
    void *listener, *comm = NULL;
    begin_side(&duo->receiver);
    CHILD_CHECK(net_listen(&net, 0, handle, &listener) == ncclSuccess);
    child_write(duo->handle[1], handle, sizeof handle);
    for (int64_t deadline = tpv_deadline_in(20); !comm;) {
        CHILD_CHECK(!tpv_deadline_passed(deadline) && net.accept(listener, &comm, NULL) == ncclSuccess);
        sched_yield();
    }
    net.closeListen(listener);
    move_all(&duo->receiver, false, comm);
    net.closeRecv(comm);
    return 0;
}

static int be_sender(void *argument) {
    duo_t *duo = argument;
    char handle[NCCL_NET_HANDLE_MAXSIZE];
    void *comm = NULL;
    begin_side(&duo->sender);
    child_read(duo->handle[0], handle, sizeof handle);
    for (int64_t deadline = tpv_deadline_in(20); !comm;) {
        CHILD_CHECK(!tpv_deadline_passed(deadline) && net_connect(&net, 0, handle, &comm) == ncclSuccess);
        sched_yield();
    }
    move_all(&duo->sender, true, comm);
    net.closeSend(comm);
    return 0;
}

static void play(duo_t duo) {
    assert_int_equal(pipe(duo.handle), 0);
    pid_t receiver = child_start(be_receiver, &duo), sender = child_start(be_sender, &duo);
    int sent = child_wait(sender, 60), received = child_wait(receiver, 60);
    close(duo.handle[0]);
    close(duo.handle[1]);
    assert_int_equal(sent, 0);
    assert_int_equal(received, 0);
}

#define PULLING "through process_vm_readv"
#define SHARING "through shared memory"

static void memory_is_read_where_that_is_allowed(void **state) {
    (void)state;
    play((duo_t){.sender = {.local = "1", .log = PULLING}, .receiver = {.local = "1", .log = PULLING}});
}

static void each_side_can_switch_it_off(void **state) {
    (void)state;
    play((duo_t){.sender = {.local = "0"}, .receiver = {.local = "0"}});
    play((duo_t){.sender = {.local = "1"}, .receiver = {.local = "0"}});
    play((duo_t){.sender = {.local = "0"}, .receiver = {.local = "1"}});
    play((duo_t){.sender = {.local = "1", .log = SHARING}, .receiver = {.local = "2", .log = SHARING}});
}

/* A call that the kernel refuses, as a container's filter does. */
static void refuse(int call) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
    CHILD_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHILD_CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static void refuse_reading(void) {
    refuse(SYS_process_vm_readv);
}

static void refuse_pidfd(void) {
    refuse(SYS_pidfd_open);
}

static void memory_is_shared_where_reading_is_refused(void **state) {
    (void)state;
    play((duo_t){.sender = {.local = "1", .log = SHARING},
                 .receiver = {.local = "1", .prepare = refuse_reading, .log = SHARING}});
    /* Permissions may change at any time. */
    play((duo_t){
        .sender = {.local = "1", .log = PULLING},
        .receiver = {
            .local = "1", .log = PULLING, .between = refuse_reading, .log_between = "cannot be read any more"}});
    /* Kernels before 5.3 have no such call. */
    play((duo_t){.sender = {.local = "1", .prepare = refuse_pidfd, .log = PULLING},
                 .receiver = {.local = "1", .prepare = refuse_pidfd, .log = PULLING}});
}

/* As when an address or an interface goes away, or something on the way cuts what is idle. The other side waits for a
 * message meanwhile, and looks. */
static void cut_connection(void) {
    int cut = 0;
    for (int fd = 3; fd < 256; fd++) {
        struct sockaddr_storage peer;
        socklen_t length = sizeof peer;
        if (getpeername(fd, (struct sockaddr *)&peer, &length) != 0 || peer.ss_family != AF_INET) continue;
        CHILD_CHECK(shutdown(fd, SHUT_RDWR) == 0);
        cut++;
    }
    CHILD_CHECK(cut == 1);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
}

static void a_connection_that_ends_breaks_no_comm(void **state) {
    (void)state;
    play((duo_t){.sender = {.local = "1", .between = cut_connection, .log = PULLING},
                 .receiver = {.local = "1", .log = PULLING}});
    play((duo_t){.sender = {.local = "2", .log = SHARING},
                 .receiver = {.local = "2", .between = cut_connection, .log = SHARING}});
    /* Without a pidfd. */
    play((duo_t){.sender = {.local = "1", .prepare = refuse_pidfd, .between = cut_connection, .log = PULLING},
                 .receiver = {.local = "1", .prepare = refuse_pidfd, .log = PULLING}});
}

/* The plugin comes in before: the folder that it is in may be closed to others. */
static void become_nobody(void) {
    CHILD_CHECK(dlopen(net_plugin_path(NULL), RTLD_NOW) != NULL);
    CHILD_CHECK(setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0);
}

static void become_private(void) {
    CHILD_CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
}

static void a_process_of_another_user_goes_over_tcp(void **state) {
    (void)state;
    static const char other_user[] = "going over the network stack: it is a process of another user",
                      hidden[] = "going over the network stack: its descriptors cannot be seen";
    /* Root may look at everybody, and must not: what lies there may be a trap. */
    if (geteuid() == 0) {
        play(
            (duo_t){.sender = {.local = "1"}, .receiver = {.local = "1", .prepare = become_nobody, .log = other_user}});
        play(
            (duo_t){.sender = {.local = "1", .prepare = become_nobody}, .receiver = {.local = "1", .log = other_user}});
    } else {
        play((duo_t){.sender = {.local = "1", .prepare = become_private}, .receiver = {.local = "1", .log = hidden}});
    }
}

static void enter_namespace(void) {
    CHILD_CHECK(unshare(CLONE_NEWPID) == 0);
    pid_t inside = fork();
    CHILD_CHECK(inside >= 0);
    if (inside == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        return;
    }
    int status = 0;
    while (waitpid(inside, &status, 0) != inside)
        ;
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

static int can_enter_namespace(void *argument) {
    (void)argument;
    return unshare(CLONE_NEWPID) == 0 ? 0 : 1;
}

static void another_pid_namespace_goes_over_tcp(void **state) {
    (void)state;
    if (child_wait(child_start(can_enter_namespace, NULL), 10) != 0) skip();
    play((duo_t){.sender = {.local = "1", .prepare = enter_namespace},
                 .receiver = {.local = "1", .log = "going over the network stack: it is in another pid namespace"}});
}

/* ---- one process that survives what another does ---- */

typedef struct {
    bool peer_sends;
    void (*fate)(void *comm); /* of the peer, with a large send announced or a receive posted */
    int to_peer[2], from_peer[2];
} scene_t;

static char *peer_memory;
static bool peer_rests; /* its fate is to do nothing more */

static int be_peer(void *argument) {
    scene_t *scene = argument;
    void *request;
    CHILD_CHECK(net_plugin_open(&net, net_plugin_path(NULL), NET_NEWEST) == ncclSuccess);
    void *comm = net_meet(&net, scene->peer_sends, scene->to_peer[0], scene->from_peer[1]);
    peer_memory = mmap(NULL, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    net_fill(peer_memory, BIG, 1);
    CHILD_CHECK((scene->peer_sends ? net_isend(&net, comm, peer_memory, BIG, &request)
                                   : net_irecv(&net, comm, peer_memory, BIG, &request)) == ncclSuccess);
    scene->fate(comm);
    child_write(scene->from_peer[1], "!", 1);
    while (!peer_rests) {
        int done = 0;
        if (net.test(request, &done, NULL) != ncclSuccess || done) break;
    }
    for (;;)
        pause();
}

static pid_t begin_scene(scene_t *scene, void **comm) {
    assert_int_equal(pipe(scene->to_peer), 0);
    assert_int_equal(pipe(scene->from_peer), 0);
    net_log_clear();
    pid_t peer = child_start(be_peer, scene);
    close(scene->to_peer[0]);
    close(scene->from_peer[1]);
    *comm = net_meet(&net, !scene->peer_sends, scene->from_peer[0], scene->to_peer[1]);
    return peer;
}

static void end_scene(scene_t *scene, pid_t peer, void *comm) {
    scene->peer_sends ? net.closeRecv(comm) : net.closeSend(comm);
    kill(peer, SIGKILL);
    assert_int_equal(waitpid(peer, NULL, 0), peer);
    close(scene->to_peer[1]);
    close(scene->from_peer[0]);
}

/* What the survivor's request comes to. */
static ncclResult_t outcome(bool peer_sends, void *comm, char *block) {
    void *request = NULL;
    ncclResult_t result =
        peer_sends ? net_irecv(&net, comm, block, BIG, &request) : net_isend(&net, comm, block, BIG, &request);
    return result == ncclSuccess ? net_wait(&net, request, 20, NULL) : result;
}

static void survive(bool peer_sends, void (*fate)(void *), bool kill_it, ncclResult_t expected, const char *log) {
    scene_t scene = {.peer_sends = peer_sends, .fate = fate};
    void *comm;
    char told, *block = malloc(BIG);
    int descriptors = net_open_descriptors();
    pid_t peer = begin_scene(&scene, &comm);
    child_read(scene.from_peer[0], &told, 1);
    siginfo_t death;
    if (kill_it) kill(peer, SIGKILL);
    /* Until it is dead its memory can be read; end_scene takes the status. */
    if (kill_it) assert_int_equal(waitid(P_PID, (id_t)peer, &death, WEXITED | WNOWAIT), 0);
    assert_int_equal(outcome(peer_sends, comm, block), expected);
    assert_int_equal(net_log_count(BY_PULLING), 1);
    assert_int_equal(net_log_count("WARN"), 1);
    if (net_log_count(log) != 1) print_error("log: %s", net_log_text());
    assert_int_equal(net_log_count(log), 1);
    end_scene(&scene, peer, comm);
    assert_int_equal(net_open_descriptors(), descriptors);
    free(block);
}

/* The child has the connection too, so nothing comes over it when the parent ends. */
static void leave_child(void *comm) {
    (void)comm;
    pid_t child = fork();
    if (child) return;
    prctl(PR_SET_PDEATHSIG, 0);
    alarm(60);
    for (;;)
        pause();
}

static void a_killed_peer_whose_child_lives(void **state) {
    (void)state;
    survive(true, leave_child, true, ncclRemoteError, "the peer is gone");
    survive(false, leave_child, true, ncclRemoteError, "the peer is gone");
}

/* The plugin's page that forked children find empty. */
static uintptr_t find_wiped_page(void) {
    char line[512];
    uintptr_t at = 0, found = 0;
    FILE *maps = fopen("/proc/self/smaps", "re");
    CHILD_CHECK(maps);
    while (!found && fgets(line, sizeof line, maps)) {
        if (line[0] >= 'a' ? line[0] <= 'f' : line[0] >= '0' && line[0] <= '9') at = strtoull(line, NULL, 16);
        if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " wf")) found = at;
    }
    fclose(maps);
    CHILD_CHECK(found);
    return found;
}

/* The process id stays, the memory does not; what the other side may read is there again, with other bytes. */
static void become_another_program(void *comm) {
    (void)comm;
    char places[64];
    snprintf(places, sizeof places, "%lx,%lx", (unsigned long)find_wiped_page(), (unsigned long)peer_memory);
    setenv("TEST_IMPOSTOR", places, 1);
    execl("/proc/self/exe", "impostor", NULL);
    _exit(1);
}

static int be_impostor(const char *places) {
    char *end;
    uintptr_t at[2] = {strtoull(places, &end, 16), 0};
    at[1] = strtoull(end + 1, NULL, 16);
    for (int i = 0; i < 2; i++) {
        size_t size = i ? BIG : 4096;
        void *memory =
            mmap((void *)at[i], size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (memory != (void *)at[i]) return 1;
        memset(memory, 0x66, size);
    }
    prctl(PR_SET_NAME, "impostor ready");
    for (;;)
        pause();
}

static void a_peer_that_becomes_another_program(void **state) {
    (void)state;
    for (int sends = 0; sends < 2; sends++) {
        scene_t scene = {.peer_sends = sends, .fate = become_another_program};
        void *comm;
        char *block = malloc(BIG);
        pid_t peer = begin_scene(&scene, &comm);
        char program[32] = "", path[64];
        snprintf(path, sizeof path, "/proc/%d/comm", (int)peer);
        for (int64_t deadline = tpv_deadline_in(20); strcmp(program, "impostor ready\n") != 0;) {
            assert_false(tpv_deadline_passed(deadline));
            int fd = open(path, O_RDONLY);
            ssize_t length = fd >= 0 ? read(fd, program, sizeof program - 1) : -1;
            program[length > 0 ? length : 0] = '\0';
            if (fd >= 0) close(fd);
        }
        assert_int_equal(outcome(sends, comm, block), ncclRemoteError);
        assert_int_equal(net_log_count("the peer is gone"), 1);
        end_scene(&scene, peer, comm);
        free(block);
    }
}

static int be_closing_peer(void *argument) {
    scene_t *scene = argument;
    void *request;
    CHILD_CHECK(net_plugin_open(&net, net_plugin_path(NULL), NET_NEWEST) == ncclSuccess);
    void *comm = net_meet(&net, scene->peer_sends, scene->to_peer[0], scene->from_peer[1]);
    char *memory = calloc(1, BIG);
    CHILD_CHECK((scene->peer_sends ? net_isend(&net, comm, memory, BIG, &request)
                                   : net_irecv(&net, comm, memory, BIG, &request)) == ncclSuccess);
    scene->peer_sends ? net.closeSend(comm) : net.closeRecv(comm);
    free(memory);
    child_write(scene->from_peer[1], "!", 1);
    return 0;
}

static void a_peer_that_closes_early(void **state) {
    (void)state;
    for (int sends = 0; sends < 2; sends++) {
        scene_t scene = {.peer_sends = sends};
        void *comm;
        char told, *block = calloc(1, BIG);
        assert_int_equal(pipe(scene.to_peer), 0);
        assert_int_equal(pipe(scene.from_peer), 0);
        net_log_clear();
        pid_t peer = child_start(be_closing_peer, &scene);
        comm = net_meet(&net, !sends, scene.from_peer[0], scene.to_peer[1]);
        child_read(scene.from_peer[0], &told, 1);
        assert_int_equal(outcome(sends, comm, block), ncclRemoteError);
        assert_int_equal(net_log_count("the peer closed the connection"), 1);
        sends ? net.closeRecv(comm) : net.closeSend(comm);
        assert_int_equal(child_wait(peer, 10), 0);
        for (int i = 0; i < 2; i++) {
            close(scene.to_peer[i]);
            close(scene.from_peer[i]);
        }
        free(block);
    }
}

/* Memory that is not there: whose it is decides who gets which error. */
static void data_that_is_not_there(void **state) {
    (void)state;
    for (int whose = 0; whose < 2; whose++) {
        net_pair_t pair;
        net_log_clear();
        assert_true(net_pair_open(&net, 0, &pair));
        char *memory[2];
        for (int i = 0; i < 2; i++)
            memory[i] = mmap(NULL, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(memory[0], 1, BIG);
        munmap(memory[whose] + BIG / 2, BIG / 2);
        void *send, *receive;
        assert_int_equal(net_irecv(&net, pair.receive, memory[1], BIG, &receive), ncclSuccess);
        assert_int_equal(net_isend(&net, pair.send, memory[0], BIG, &send), ncclSuccess);
        ncclResult_t sent = ncclSuccess, received = ncclSuccess;
        for (int64_t deadline = tpv_deadline_in(20); sent == ncclSuccess || received == ncclSuccess;) {
            int done = 0;
            assert_false(tpv_deadline_passed(deadline));
            if (sent == ncclSuccess) sent = net.test(send, &done, NULL);
            if (received == ncclSuccess) received = net.test(receive, &done, NULL);
            assert_int_equal(done, 0);
        }
        assert_int_equal(received, whose ? ncclSystemError : ncclRemoteError);
        assert_int_equal(sent, whose ? ncclRemoteError : ncclSystemError);
        assert_int_equal(net_log_count("the data is not accessible"), 1);
        net_pair_close(&net, &pair);
        munmap(memory[whose], BIG / 2);
        munmap(memory[!whose], BIG);
    }
}

/* ---- closing or deregistering in the middle of a copy ---- */

typedef struct {
    void *request;
    char *block;
    ncclResult_t result;
    _Atomic bool begun;
} receive_t;

static void *receive_until_outcome(void *argument) {
    receive_t *receive = argument;
    receive->begun = true;
    receive->result = net_wait(&net, receive->request, 20, NULL);
    return NULL;
}

/* The sender takes its memory away while the receiver copies it: what the receiver is told is there must be right. */
static void memory_that_is_taken_away_is_never_delivered(void **state) {
    (void)state;
    enum { ROUNDS = 300 };
    char *memory = malloc(BIG);
    receive_t receive = {.block = malloc(BIG)};
    uint32_t random = 7;
    int delivered = 0;
    for (int round = 0; round < ROUNDS; round++) {
        net_pair_t pair;
        void *send, *registration = NULL;
        pthread_t thread;
        bool closes = round % 2;
        assert_true(net_pair_open(&net, 0, &pair));
        net_fill(memory, BIG, (uint64_t)round);
        if (!closes)
            assert_int_equal(net.abi.regMr(&net.abi, pair.send, memory, BIG, NCCL_PTR_HOST, &registration),
                             ncclSuccess);
        assert_int_equal(net_irecv(&net, pair.receive, receive.block, BIG, &receive.request), ncclSuccess);
        assert_int_equal(net_isend_registered(&net, pair.send, memory, BIG, registration, &send), ncclSuccess);
        receive.begun = false;
        assert_int_equal(pthread_create(&thread, NULL, receive_until_outcome, &receive), 0);
        while (!receive.begun)
            sched_yield();
        random = random * 1103515245 + 12345;
        for (int64_t until = tpv_clock_ns() + (random >> 8) % 800000; tpv_clock_ns() < until;)
            ;
        if (closes)
            net.closeSend(pair.send), pair.send = NULL;
        else
            assert_int_equal(net.abi.deregMr(pair.send, registration), ncclSuccess);
        memset(memory, 0xee, BIG);
        pthread_join(thread, NULL);
        if (receive.result == ncclSuccess) {
            delivered++;
            assert_true(net_check(receive.block, BIG, (uint64_t)round));
        } else {
            assert_int_equal(receive.result, ncclRemoteError);
            /* The sender's own fault is not its peer's. */
            if (!closes) assert_int_equal(net_wait(&net, send, 20, NULL), ncclInvalidUsage);
        }
        net_pair_close(&net, &pair);
    }
    printf("%d of %d were delivered\n", delivered, ROUNDS);
    free(memory);
    free(receive.block);
}

/* ---- shared memory full of nonsense ---- */

static unsigned scribble_seed;

/* The mapping of the comm's control words. */
static tpv_local_control_t *find_control(void) {
    char line[512];
    tpv_local_control_t *found = NULL;
    FILE *maps = fopen("/proc/self/maps", "re");
    CHILD_CHECK(maps);
    while (fgets(line, sizeof line, maps)) {
        if (!strstr(line, "memfd:tpview-net")) continue;
        CHILD_CHECK(!found);
        found = (tpv_local_control_t *)strtoull(line, NULL, 16);
    }
    fclose(maps);
    CHILD_CHECK(found);
    return found;
}

/* Everything: the control words, slots and rings. */
static void scribble(void *comm) {
    (void)comm;
    uint32_t *from = (uint32_t *)find_control();
    size_t words = sizeof(tpv_local_control_t) / sizeof *from;
    unsigned random = scribble_seed;
    for (int i = 0; i < 4000; i++) {
        random = random * 1103515245 + 12345;
        size_t at = (random >> 4) % (i % 4 ? words : 64);
        random = random * 1103515245 + 12345;
        from[at] = i % 3 ? random >> 8 & 1023 : random;
    }
}

/* A block with a margin on both sides that nothing may write to. */
#define MARGIN ((size_t)1 << 20)
#define MARK 0x3c

static bool margins_are_whole(const char *around) {
    for (size_t i = 0; i < MARGIN; i++)
        if (around[i] != MARK || around[MARGIN + BIG + i] != MARK) return false;
    return true;
}

static void nonsense_in_the_shared_memory_is_survived(void **state) {
    (void)state;
    char *around = malloc(BIG + 2 * MARGIN), *block = around + MARGIN;
    memset(around, MARK, BIG + 2 * MARGIN);
    int descriptors = net_open_descriptors();
    for (scribble_seed = 1; scribble_seed <= 40; scribble_seed++) {
        for (int sends = 0; sends < 2; sends++) {
            scene_t scene = {.peer_sends = sends, .fate = scribble};
            void *comm, *requests[NCCL_NET_MAX_REQUESTS];
            char told;
            pid_t peer = begin_scene(&scene, &comm);
            child_read(scene.from_peer[0], &told, 1);
            /* A wrong word is the peer's fault. It may also make no difference, or leave nothing to wait for but the
             * peer, which is what it could have done as well by just not answering. */
            int posted = 0;
            for (; posted < NCCL_NET_MAX_REQUESTS; posted++) {
                void *data = block, *registration = NULL;
                size_t size = BIG;
                int tag = 7;
                ncclResult_t result =
                    sends ? net.irecv(comm, 1, &data, &size, &tag, &registration, NULL, &requests[posted])
                          : net.isend(comm, block, BIG, 7, NULL, NULL, &requests[posted]);
                assert_int_equal(result, ncclSuccess);
                if (!requests[posted]) break;
            }
            int64_t until = tpv_clock_ns() + 20 * TPV_NS_PER_MS;
            for (int i = 0; posted && tpv_clock_ns() < until; i++) {
                int done = 0, size = 0;
                ncclResult_t result = net.test(requests[i % posted], &done, &size);
                /* A message that never was may be longer than the receive. */
                assert_true(result == ncclSuccess || result == ncclRemoteError ||
                            (sends && result == ncclInvalidUsage));
                assert_in_range(size, 0, BIG);
                if (result != ncclSuccess || done) break;
            }
            assert_true(margins_are_whole(around));
            end_scene(&scene, peer, comm);
            assert_int_equal(net_open_descriptors(), descriptors);
        }
    }
    free(around);
}

/* What the sender keeps of a message is its own: buffers that never were, for messages that are called done. */
static void forge_buffers(void *comm) {
    (void)comm;
    tpv_local_control_t *control = find_control();
    for (int64_t deadline = tpv_deadline_in(20); atomic_load(&control->announced) == 0;)
        CHILD_CHECK(!tpv_deadline_passed(deadline));
    for (size_t i = 0; i < TPV_LOCAL_SLOTS; i++) {
        control->slots[i].buffer = 0x30000000;
        atomic_store(&control->slots[i].done, 1);
    }
}

/* One word at a time, with the others as they should be. */
typedef enum { MANY_GRANTS, GRANT_OF_NO_SLOT, GRANT_OF_NO_SEND, MUCH_TAKEN, MUCH_GIVEN } forged_t;
static forged_t forged_word;

static void forge(void *comm) {
    (void)comm;
    tpv_local_control_t *control = find_control();
    peer_rests = true;
    switch (forged_word) {
    case MANY_GRANTS:
        atomic_store(&control->granted, TPV_LOCAL_RING + 1);
        return;
    case GRANT_OF_NO_SLOT: /* far behind the last one */
        control->grants[0] = 0x7fffffff;
        break;
    case GRANT_OF_NO_SEND:
        control->grants[0] = 1;
        break;
    case MUCH_TAKEN:
        atomic_store(&control->consumed, 1);
        break;
    case MUCH_GIVEN: /* this side sends */
        control->slots[0].shared = 1;
        atomic_store(&control->produced, TPV_LOCAL_BULK_BYTES + 1);
        return;
    }
    atomic_store(&control->granted, 1);
}

static void a_forged_word_is_the_peers_fault(void **state) {
    (void)state;
    static const char *const logs[] = {
        [MANY_GRANTS] = "the shared memory is damaged: it asks for more than there is",
        [GRANT_OF_NO_SLOT] = "the shared memory is damaged: it asks for what is not sent",
        [GRANT_OF_NO_SEND] = "the shared memory is damaged: it asks for what is not sent",
        [MUCH_TAKEN] = "the shared memory is damaged: more was taken than given",
        [MUCH_GIVEN] = "the shared memory is damaged",
    };
    for (forged_word = MANY_GRANTS; forged_word <= MUCH_GIVEN; forged_word++)
        survive(forged_word == MUCH_GIVEN, forge, false, ncclRemoteError, logs[forged_word]);
}

static void forged_words_do_not_reach_the_sender(void **state) {
    (void)state;
    char out[64] = "forge";
    scene_t scene = {.fate = forge_buffers};
    void *comm, *request;
    char told;
    pid_t peer = begin_scene(&scene, &comm);
    assert_int_equal(net_isend(&net, comm, out, sizeof out, &request), ncclSuccess);
    child_read(scene.from_peer[0], &told, 1);
    assert_int_equal(net_wait(&net, request, 20, NULL), ncclSuccess);
    /* As many more as there are buffers; the receiver, which reads what it forged, may say that it has failed. */
    ncclResult_t result = ncclSuccess;
    for (unsigned i = 1; i < TPV_LOCAL_INLINE_BUFFERS && result == ncclSuccess; i++) {
        assert_int_equal(net_isend(&net, comm, out, sizeof out, &request), ncclSuccess);
        result = net_wait(&net, request, 20, NULL);
    }
    assert_true(result == ncclSuccess || result == ncclRemoteError);
    end_scene(&scene, peer, comm);
}

/* ---- what lies at the descriptor that a peer names ---- */

/* Bytes of a greeting with the offer of the same-host transport. */
#define GREETING_BYTES 140

/* A stranger's offer, by hand: docs/plugin.md. The descriptor is one of this process; `file` is what it says of it. */
static void make_offer(const char *handle, int trap, const struct stat *file, char *greeting) {
    struct stat space;
    assert_int_equal(stat("/proc/self/ns/pid", &space), 0);
    uint64_t namespace = space.st_ino, nonce_address = (uintptr_t)greeting, device = file->st_dev, inode = file->st_ino;
    uint32_t pid = (uint32_t)getpid();
    int32_t fd = trap;
    memset(greeting, 0, GREETING_BYTES);
    memcpy(greeting, "TPVHELLO\3\0\134\0\1", 13);
    memcpy(greeting + 16, handle + 16, 16);
    greeting[48] = 2;  /* the same-host transport */
    greeting[50] = 88; /* bytes */
    memcpy(greeting + 52, handle + 72, 16);
    memcpy(greeting + 68, &namespace, 8);
    memcpy(greeting + 76, &pid, 4);
    memcpy(greeting + 80, &fd, 4);
    memcpy(greeting + 84, &nonce_address, 8);
    memcpy(greeting + 124, &device, 8);
    memcpy(greeting + 132, &inode, 8);
}

static int connect_plain(const char *handle) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    uint16_t port;
    memcpy(&port, handle + 34, 2);
    memcpy(&address.sin_addr, handle + 36, 4);
    address.sin_port = htons(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* Whether another process, the parent, holds the segment as its sender. */
static int see_holder(void *segment) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = TPV_LOCAL_SENDER, .l_len = 1};
    CHILD_CHECK(fcntl(*(const int *)segment, F_GETLK, &lock) == 0);
    CHILD_CHECK(lock.l_type != F_UNLCK && lock.l_pid == getppid());
    return 0;
}

/* The listener declines what is offered. */
static void offer_and_be_declined(int trap, const struct stat *file, const char *why) {
    char handle[NCCL_NET_HANDLE_MAXSIZE], greeting[GREETING_BYTES], byte;
    void *listener = NULL, *comm = NULL;
    net_log_clear();
    assert_int_equal(net_listen(&net, 0, handle, &listener), ncclSuccess);
    make_offer(handle, trap, file, greeting);
    int fd = connect_plain(handle);
    assert_int_equal(send(fd, greeting, sizeof greeting, 0), sizeof greeting);
    for (int64_t deadline = tpv_deadline_in(20); recv(fd, &byte, 1, MSG_DONTWAIT) != 0;) {
        assert_false(tpv_deadline_passed(deadline));
        assert_int_equal(net.accept(listener, &comm, NULL), ncclSuccess);
        assert_null(comm);
    }
    assert_int_equal(net_log_count(why), 1);
    close(fd);
    net.closeListen(listener);
}

/* A file of just the right size, and one that is a FIFO, on which an open tells as well. */
static void only_shared_memory_is_ever_opened(void **state) {
    (void)state;
    char folder[] = "/dev/shm/tpview-test-XXXXXX", path[64], event[512];
    struct stat file;
    assert_non_null(mkdtemp(folder));
    for (int fifo = 0; fifo < 2; fifo++) {
        snprintf(path, sizeof path, "%s/%s", folder, fifo ? "fifo" : "file");
        if (fifo) assert_int_equal(mkfifo(path, 0600), 0);
        int trap = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600);
        assert_true(trap >= 0);
        if (!fifo) assert_int_equal(ftruncate(trap, (off_t)TPV_LOCAL_BYTES), 0);
        int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
        assert_true(inotify_add_watch(watch, path, IN_OPEN) >= 0);
        assert_int_equal(fstat(trap, &file), 0);
        offer_and_be_declined(trap, &file, "its shared memory is not where it says");
        assert_int_equal(read(watch, event, sizeof event), -1);
        assert_int_equal(errno, EAGAIN);
        close(watch);
        close(trap);
        unlink(path);
    }
    rmdir(folder);
}

/* The descriptor of the segment that this process made; -1: none. */
static int find_segment(void) {
    char path[64], name[64];
    int found = -1;
    for (int fd = 3; fd < 256 && found < 0; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(path, name, sizeof name - 1);
        name[length > 0 ? length : 0] = '\0';
        if (strncmp(name, "/memfd:tpview-net", 17) == 0) found = fd;
    }
    return found;
}

static void go_on(void *comm) {
    (void)comm;
}

/* A descriptor's number that was another segment's, and now is that of one whose sender this process is. */
static void another_comms_segment_stays_held(void **state) {
    (void)state;
    scene_t scene = {.fate = go_on};
    struct stat file, other;
    void *comm, *request;
    char told, out[64] = "held";
    pid_t peer = begin_scene(&scene, &comm);
    child_read(scene.from_peer[0], &told, 1);
    assert_int_equal(net_isend(&net, comm, out, sizeof out, &request), ncclSuccess);
    assert_int_equal(net_wait(&net, request, 20, NULL), ncclSuccess);
    int segment = find_segment();
    assert_true(segment >= 0 && fstat(segment, &file) == 0);
    other = file;
    other.st_ino++;
    offer_and_be_declined(segment, &other, "its shared memory is not where it says");
    other = file;
    other.st_dev++;
    offer_and_be_declined(segment, &other, "its shared memory is not where it says");
    assert_int_equal(child_wait(child_start(see_holder, &segment), 20), 0);
    end_scene(&scene, peer, comm);
}

/* ---- memory of unusual kinds and sizes ---- */

/* That only its owner can read: the kernel has no page of it for anybody else. NULL: not to be had here. */
static char *make_secret(size_t size) {
    int fd = (int)syscall(SYS_memfd_secret, 0);
    if (fd < 0 || ftruncate(fd, (off_t)size) != 0) return NULL;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return memory == MAP_FAILED ? NULL : memory;
}

static void memory_that_cannot_be_read_is_copied(void **state) {
    (void)state;
    enum { ROUNDS = 3 };
    size_t size = 3 * 65536 + 17;
    char *secret = make_secret(size), *plain = malloc(size), *in[3];
    if (!secret) skip();
    net_pair_t pair;
    void *registration = NULL;
    net_log_clear();
    assert_true(net_pair_open(&net, 0, &pair));
    for (int i = 0; i < 3; i++)
        in[i] = malloc(size);
    assert_int_equal(net.abi.regMr(&net.abi, pair.send, secret, size, NCCL_PTR_HOST, &registration), ncclSuccess);
    for (uint64_t round = 0; round < ROUNDS; round++) {
        void *sends[3], *receives[3];
        net_fill(secret, size, 2 * round);
        net_fill(plain, size, 2 * round + 1);
        for (int i = 0; i < 3; i++)
            assert_int_equal(net_irecv(&net, pair.receive, in[i], size, &receives[i]), ncclSuccess);
        /* Between messages of other memory, and the last one without a registration. */
        void *registrations[] = {registration, NULL, round ? NULL : registration};
        for (int i = 0; i < 3; i++)
            assert_int_equal(
                net_isend_registered(&net, pair.send, i == 1 ? plain : secret, size, registrations[i], &sends[i]),
                ncclSuccess);
        for (int i = 0; i < 3; i++) {
            int received = -1;
            assert_int_equal(net_wait_pair(&net, sends[i], receives[i], 20, &received), ncclSuccess);
            assert_int_equal(received, size);
            assert_true(net_check(in[i], size, i == 1 ? 2 * round + 1 : 2 * round));
        }
    }
    assert_int_equal(net_log_count("cannot be read by others"), 1);
    assert_int_equal(net_log_count("WARN"), 0);
    assert_int_equal(net.abi.deregMr(pair.send, registration), ncclSuccess);
    net_pair_close(&net, &pair);
    munmap(secret, size);
    free(plain);
    for (int i = 0; i < 3; i++)
        free(in[i]);
}

/* Each word tells where it is, so none can stand for another: more than one system call copies, at odd places. */
static void every_slice_of_a_message_is_in_its_place(void **state) {
    (void)state;
    size_t words = (size_t)(5 << 20) / 8 + 3, size = words * 8 - 5;
    uint64_t *out = malloc(words * 8), *in = malloc(words * 8);
    net_pair_t pair;
    void *send, *receive, *small[2];
    assert_true(net_pair_open(&net, 0, &pair));
    for (size_t i = 0; i < words; i++)
        out[i] = i * UINT64_C(0x9e3779b97f4a7c15);
    for (int round = 0; round < 2; round++) {
        char byte[5000] = "";
        memset(in, 0, words * 8);
        /* In the second round another message is copied with the first slice. */
        if (round) assert_int_equal(net_irecv(&net, pair.receive, byte, sizeof byte, &small[0]), ncclSuccess);
        assert_int_equal(net_irecv(&net, pair.receive, in, words * 8, &receive), ncclSuccess);
        if (round) assert_int_equal(net_isend(&net, pair.send, out, sizeof byte, &small[1]), ncclSuccess);
        assert_int_equal(net_isend(&net, pair.send, (char *)out + 3, size, &send), ncclSuccess);
        if (round) assert_int_equal(net_wait_pair(&net, small[1], small[0], 20, NULL), ncclSuccess);
        if (round) assert_memory_equal(byte, out, sizeof byte);
        assert_int_equal(net_wait_pair(&net, send, receive, 20, NULL), ncclSuccess);
        assert_memory_equal(in, (char *)out + 3, size);
    }
    net_pair_close(&net, &pair);
    free(out);
    free(in);
}

/* ---- a process whose main thread has ended ---- */

typedef struct {
    int handle[2], ready[2];
    void *comm;
} headless_t;

static void *send_without_main_thread(void *argument) {
    headless_t *scene = argument;
    char state[64] = "", *block = malloc(BIG);
    /* The main thread is a zombie by then. */
    for (int64_t deadline = tpv_deadline_in(20); !strstr(state, "Z");) {
        CHILD_CHECK(!tpv_deadline_passed(deadline));
        char text[512] = "";
        int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
        CHILD_CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
        close(fd);
        snprintf(state, sizeof state, "%.3s", strrchr(text, ')') + 1);
    }
    child_write(scene->ready[1], "!", 1);
    /* The other side waits for a message meanwhile, and looks. */
    nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    for (uint64_t i = 0; i < 3; i++)
        move(true, scene->comm, block, BIG, i);
    net.closeSend(scene->comm);
    _Exit(0);
}

static int be_headless(void *argument) {
    headless_t *scene = argument;
    char handle[NCCL_NET_HANDLE_MAXSIZE];
    pthread_t thread;
    CHILD_CHECK(net_plugin_open(&net, net_plugin_path(NULL), NET_NEWEST) == ncclSuccess);
    child_read(scene->handle[0], handle, sizeof handle);
    for (int64_t deadline = tpv_deadline_in(20); !scene->comm;)
        CHILD_CHECK(!tpv_deadline_passed(deadline) && net_connect(&net, 0, handle, &scene->comm) == ncclSuccess);
    CHILD_CHECK(pthread_create(&thread, NULL, send_without_main_thread, scene) == 0);
    pthread_exit(NULL);
}

/* Receive from one whose main thread ends before its comm is accepted (early), or after. */
static int hear_headless(void *argument) {
    const bool *early = argument;
    headless_t scene = {0};
    char handle[NCCL_NET_HANDLE_MAXSIZE], told, *block = malloc(BIG);
    void *listener = NULL, *comm = NULL;
    CHILD_CHECK(pipe(scene.handle) == 0 && pipe(scene.ready) == 0);
    net_log_clear();
    CHILD_CHECK(net_listen(&net, 0, handle, &listener) == ncclSuccess);
    pid_t peer = child_start(be_headless, &scene);
    child_write(scene.handle[1], handle, sizeof handle);
    if (*early) child_read(scene.ready[0], &told, 1);
    for (int64_t deadline = tpv_deadline_in(20); !comm;)
        CHILD_CHECK(!tpv_deadline_passed(deadline) && net.accept(listener, &comm, NULL) == ncclSuccess);
    if (!*early) child_read(scene.ready[0], &told, 1);
    CHILD_CHECK(net_log_count("receiving from process") == 1);
    for (uint64_t i = 0; i < 3; i++)
        move(false, comm, block, BIG, i);
    net.closeRecv(comm);
    net.closeListen(listener);
    return child_wait(peer, 20);
}

static int hear_headless_without_pidfd(void *argument) {
    refuse_pidfd();
    return hear_headless(argument);
}

static void a_main_thread_that_ends_is_no_dead_process(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        bool early = i;
        assert_int_equal(child_wait(child_start(hear_headless, &early), 40), 0);
        assert_int_equal(child_wait(child_start(hear_headless_without_pidfd, &early), 40), 0);
    }
}

/* ---- a comm that is gone before it is accepted ---- */

typedef struct {
    void (*prepare)(void); /* in the sender */
    bool closes;
    const char *log;
    int to_peer[2], from_peer[2];
} gone_t;

static void *rest(void *argument) {
    (void)argument;
    while (pause() != 0)
        ;
    return NULL;
}

static int connect_and_leave(void *argument) {
    gone_t *scene = argument;
    char handle[NCCL_NET_HANDLE_MAXSIZE];
    void *comm = NULL;
    pthread_t thread;
    CHILD_CHECK(pthread_create(&thread, NULL, rest, NULL) == 0);
    if (scene->prepare) scene->prepare();
    CHILD_CHECK(net_plugin_open(&net, net_plugin_path(NULL), NET_NEWEST) == ncclSuccess);
    child_read(scene->to_peer[0], handle, sizeof handle);
    for (int64_t deadline = tpv_deadline_in(20); !comm;)
        CHILD_CHECK(!tpv_deadline_passed(deadline) && net_connect(&net, 0, handle, &comm) == ncclSuccess);
    if (scene->closes) net.closeSend(comm);
    child_write(scene->from_peer[1], "!", 1);
    for (;;)
        pause();
}

/* Every thread of the sender that is asked has the same to say; accept must not ask for ever. */
static int accept_the_gone(void *argument) {
    gone_t *scene = argument;
    char handle[NCCL_NET_HANDLE_MAXSIZE], told;
    void *listener;
    CHILD_CHECK(pipe(scene->to_peer) == 0 && pipe(scene->from_peer) == 0);
    if (geteuid() == 0 && scene->prepare) become_nobody();
    CHILD_CHECK(net_plugin_open(&net, net_plugin_path(NULL), NET_NEWEST) == ncclSuccess);
    CHILD_CHECK(net_listen(&net, 0, handle, &listener) == ncclSuccess);
    pid_t peer = child_start(connect_and_leave, scene);
    child_write(scene->to_peer[1], handle, sizeof handle);
    child_read(scene->from_peer[0], &told, 1);
    net_log_clear();
    for (int64_t deadline = tpv_deadline_in(20); net_log_count(scene->log) == 0;) {
        void *comm = NULL;
        CHILD_CHECK(!tpv_deadline_passed(deadline) && net.accept(listener, &comm, NULL) == ncclSuccess);
        if (comm) net.closeRecv(comm);
    }
    net.closeListen(listener);
    kill(peer, SIGKILL);
    CHILD_CHECK(child_wait(peer, 20) == -1);
    return 0;
}

static void a_sender_of_several_threads_cannot_hold_accept(void **state) {
    (void)state;
    gone_t closed = {.closes = true, .log = "its descriptors cannot be seen"},
           hidden = {.prepare = become_private, .log = "its descriptors cannot be seen"};
    assert_int_equal(child_wait(child_start(accept_the_gone, &closed), 30), 0);
    assert_int_equal(child_wait(child_start(accept_the_gone, &hidden), 30), 0);
}

/* ---- more than 4 GiB on one comm ---- */

/* Counters of the shared memory that are cut to 32 bits would stand still or go back there. */
static int move_much(void *argument) {
    (void)argument;
    enum { SIZE = 16 << 20, MESSAGES = 260 };
    setenv("TPVIEW_NET_LOCAL", "2", 1);
    CHILD_CHECK(net_plugin_open(&net, net_plugin_path(NULL), NET_NEWEST) == ncclSuccess);
    net_pair_t pair;
    char *out = malloc(SIZE + 8), *in = malloc(SIZE);
    CHILD_CHECK(net_pair_open(&net, 0, &pair));
    net_fill(out, SIZE + 8, 5);
    for (int i = 0; i < MESSAGES; i++) {
        void *send, *receive;
        /* Shifted, so that no message looks like the one before. */
        CHILD_CHECK(net_irecv(&net, pair.receive, in, SIZE, &receive) == ncclSuccess);
        CHILD_CHECK(net_isend(&net, pair.send, out + i % 8, SIZE, &send) == ncclSuccess);
        CHILD_CHECK(net_wait_pair(&net, send, receive, 30, NULL) == ncclSuccess);
        CHILD_CHECK(memcmp(in, out + i % 8, SIZE) == 0);
    }
    net_pair_close(&net, &pair);
    return 0;
}

static void a_comm_moves_more_than_4_gib_through_shared_memory(void **state) {
    (void)state;
    assert_int_equal(child_wait(child_start(move_much, NULL), 600), 0);
}

/* ---- descriptors that are used again ---- */

static void *connect_to(char *handle) {
    void *comm = NULL;
    for (int64_t deadline = tpv_deadline_in(20); !comm;) {
        assert_false(tpv_deadline_passed(deadline));
        assert_int_equal(net_connect(&net, 0, handle, &comm), ncclSuccess);
    }
    return comm;
}

static void *accept_at(void *listener) {
    void *comm = NULL;
    for (int64_t deadline = tpv_deadline_in(20); !comm;) {
        assert_false(tpv_deadline_passed(deadline));
        assert_int_equal(net.accept(listener, &comm, NULL), ncclSuccess);
    }
    return comm;
}

/* A sender that is gone before its receiver accepts has left the number of its segment's descriptor to the next comm of
 * its process, which must be spared: neither its messages nor its end are the late receiver's. */
static void a_late_accept_finds_no_other_comms_memory(void **state) {
    (void)state;
    enum { SIZE = 100 };
    char handles[2][NCCL_NET_HANDLE_MAXSIZE], sent[SIZE], received[SIZE], stolen[SIZE] = "";
    void *listeners[2], *sending, *receiving = NULL;
    int descriptors = net_open_descriptors();
    for (int i = 0; i < 2; i++)
        assert_int_equal(net_listen(&net, 0, handles[i], &listeners[i]), ncclSuccess);
    void *gone = connect_to(handles[0]);
    int segment = find_segment();
    assert_true(segment >= 0);
    net.closeSend(gone);
    void *send = connect_to(handles[1]);
    assert_int_equal(find_segment(), segment);
    void *late = accept_at(listeners[0]), *receive = accept_at(listeners[1]), *request;
    net_fill(sent, SIZE, 1);
    assert_int_equal(net_isend(&net, send, sent, SIZE, &sending), ncclSuccess);
    assert_int_equal(net_irecv(&net, late, stolen, SIZE, &request), ncclSuccess);
    assert_int_equal(net_wait(&net, request, 20, NULL), ncclRemoteError);
    net.closeRecv(late);
    assert_int_equal(net_irecv(&net, receive, received, SIZE, &receiving), ncclSuccess);
    assert_int_equal(net_wait_pair(&net, sending, receiving, 20, NULL), ncclSuccess);
    assert_true(net_check(received, SIZE, 1));
    net.closeSend(send);
    net.closeRecv(receive);
    for (int i = 0; i < 2; i++)
        net.closeListen(listeners[i]);
    assert_int_equal(net_open_descriptors(), descriptors);
}

int main(void) {
    if (getenv("TEST_IMPOSTOR")) return be_impostor(getenv("TEST_IMPOSTOR"));
    setenv("NCCL_SOCKET_IFNAME", "=lo", 1);
    setenv("NCCL_SOCKET_FAMILY", "AF_INET", 1);
    const struct CMUnitTest choices[] = {
        cmocka_unit_test(memory_is_read_where_that_is_allowed),
        cmocka_unit_test(each_side_can_switch_it_off),
        cmocka_unit_test(memory_is_shared_where_reading_is_refused),
        cmocka_unit_test(a_connection_that_ends_breaks_no_comm),
        cmocka_unit_test(a_process_of_another_user_goes_over_tcp),
        cmocka_unit_test(another_pid_namespace_goes_over_tcp),
        cmocka_unit_test(a_comm_moves_more_than_4_gib_through_shared_memory),
    };
    int failed = cmocka_run_group_tests(choices, NULL, NULL);
    setenv("TPVIEW_NET_LOCAL", "1", 1);
    if (net_plugin_open(&net, net_plugin_path(NULL), NET_NEWEST) != ncclSuccess) return 1;
    const struct CMUnitTest faults[] = {
        cmocka_unit_test(a_killed_peer_whose_child_lives),
        cmocka_unit_test(a_peer_that_becomes_another_program),
        cmocka_unit_test(a_peer_that_closes_early),
        cmocka_unit_test(data_that_is_not_there),
        cmocka_unit_test(memory_that_is_taken_away_is_never_delivered),
        cmocka_unit_test(nonsense_in_the_shared_memory_is_survived),
        cmocka_unit_test(forged_words_do_not_reach_the_sender),
        cmocka_unit_test(a_forged_word_is_the_peers_fault),
        cmocka_unit_test(only_shared_memory_is_ever_opened),
        cmocka_unit_test(another_comms_segment_stays_held),
        cmocka_unit_test(memory_that_cannot_be_read_is_copied),
        cmocka_unit_test(every_slice_of_a_message_is_in_its_place),
        cmocka_unit_test(a_main_thread_that_ends_is_no_dead_process),
        cmocka_unit_test(a_sender_of_several_threads_cannot_hold_accept),
        cmocka_unit_test(a_late_accept_finds_no_other_comms_memory),
    };
    failed += cmocka_run_group_tests(faults, NULL, NULL);
    net_plugin_close(&net);
    return failed;
}
