/* The TCP wire format as docs/plugin.md states it, spoken by hand over a plain socket that cuts the stream anywhere. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "common/net_plugin.h"

static net_plugin_t net;

/* The first connection's hello has one offer, of TCP, behind it. */
enum { FRAME = 24, HELLO = 48, GREETING = 52, WELCOME = 16 };

static void put_piece(char *at, int32_t tag, uint32_t number, uint32_t size, uint32_t offset, uint32_t length) {
    const uint32_t fields[] = {number, size, offset, length};
    memcpy(at, "TPVM", 4);
    memcpy(at + 4, &tag, 4);
    memcpy(at + 8, fields, 16);
}

static void put_frame(char *at, int32_t tag, uint32_t number, uint32_t size) {
    put_piece(at, tag, number, size, 0, size);
}

static struct sockaddr_in loopback(uint16_t port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void send_byte(int fd, const char *byte) {
    assert_int_equal(send(fd, byte, 1, MSG_NOSIGNAL), 1);
}

static int connect_plain(const struct sockaddr_in *address) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)address, sizeof *address), 0);
    return fd;
}

static void *accept_until(void *listener) {
    void *comm = NULL;
    for (int64_t deadline = tpv_deadline_in(20); !comm;) {
        assert_false(tpv_deadline_passed(deadline));
        assert_int_equal(net.accept(listener, &comm, NULL), ncclSuccess);
    }
    return comm;
}

/* A receiving comm of the plugin whose peer is `count` plain sockets. */
static void *accept_lanes_by_hand(int count, int *fds) {
    char handle[NCCL_NET_HANDLE_MAXSIZE], greeting[GREETING] = "TPVHELLO\3\0\4", answer[WELCOME];
    void *listener = NULL, *comm = NULL;
    assert_int_equal(net_listen(&net, 0, handle, &listener), ncclSuccess);
    assert_memory_equal(handle, "TPVHANDL\3\0\1\0\0\0\0\0", 16);
    greeting[12] = (char)count;
    memcpy(greeting + 16, handle + 16, 16);
    memcpy(greeting + 32, "a comm's own id.", 16);
    greeting[HELLO] = 1;
    uint16_t port;
    memcpy(&port, handle + 34, 2);
    struct sockaddr_in address = loopback(port);
    fds[0] = connect_plain(&address);
    for (size_t i = 0; i < sizeof greeting; i++) {
        assert_int_equal(net.accept(listener, &comm, NULL), ncclSuccess);
        assert_null(comm);
        send_byte(fds[0], greeting + i);
    }
    memset(greeting + 10, 0, 2);
    for (int i = 1; i < count; i++) {
        assert_int_equal(net.accept(listener, &comm, NULL), ncclSuccess);
        assert_null(comm);
        assert_int_equal(recv(fds[0], answer, 1, MSG_DONTWAIT), -1);
        fds[i] = connect_plain(&address);
        greeting[13] = (char)i;
        assert_int_equal(send(fds[i], greeting, HELLO, 0), HELLO);
    }
    comm = accept_until(listener);
    assert_int_equal(recv(fds[0], answer, sizeof answer, MSG_WAITALL), sizeof answer);
    assert_memory_equal(answer, "TPVWELCM\3\0\0\0\1\0\0\0", WELCOME);
    net.closeListen(listener);
    return comm;
}

static void *accept_by_hand(int *fd) {
    return accept_lanes_by_hand(1, fd);
}

static void a_stream_that_comes_byte_by_byte(void **state) {
    (void)state;
    enum { MESSAGES = 6 };
    static const size_t sizes[MESSAGES] = {5, 0, 1, 0, 0, 40};
    char stream[1024], in[MESSAGES][64];
    size_t length = 0;
    int fd, done = 0, size = -1;
    void *comm = accept_by_hand(&fd), *requests[MESSAGES];
    for (int i = 0; i < MESSAGES; i++) {
        put_frame(stream + length, 7, (uint32_t)i, (uint32_t)sizes[i]);
        net_fill(stream + length + FRAME, sizes[i], (uint64_t)i);
        length += FRAME + sizes[i];
        assert_int_equal(net_irecv(&net, comm, in[i], sizeof in[i], &requests[i]), ncclSuccess);
    }
    int complete = 0;
    size_t end = FRAME + sizes[0];
    for (size_t i = 0; i < length; i++) {
        assert_int_equal(net.test(requests[complete], &done, &size), ncclSuccess);
        assert_int_equal(done, 0);
        send_byte(fd, stream + i);
        if (i + 1 < end) continue;
        assert_int_equal(net_wait(&net, requests[complete], 20, &size), ncclSuccess);
        assert_int_equal(size, sizes[complete]);
        assert_true(net_check(in[complete], sizes[complete], (uint64_t)complete));
        complete++;
        if (complete < MESSAGES) end += FRAME + sizes[complete];
    }
    assert_int_equal(complete, MESSAGES);
    net.closeRecv(comm);
    close(fd);
}

/* Cuts of random length, so that they fall into headers, payloads and between, with several receives posted. */
static void a_stream_that_is_cut_anywhere(void **state) {
    (void)state;
    enum { MESSAGES = 300, POSTED = 7, ROOM = 200 };
    size_t length = 0, sent = 0;
    char *stream = malloc(MESSAGES * (FRAME + ROOM)), in[POSTED][ROOM];
    size_t sizes[MESSAGES];
    uint32_t random = 12345;
    for (int i = 0; i < MESSAGES; i++) {
        random = random * 1103515245 + 12345;
        sizes[i] = (random >> 16) % 3 ? (random >> 16) % ROOM : 0;
        put_frame(stream + length, 7, (uint32_t)i, (uint32_t)sizes[i]);
        net_fill(stream + length + FRAME, sizes[i], (uint64_t)i);
        length += FRAME + sizes[i];
    }
    int fd, posted = 0, complete = 0;
    void *comm = accept_by_hand(&fd), *requests[POSTED];
    for (int64_t deadline = tpv_deadline_in(30); complete < MESSAGES;) {
        assert_false(tpv_deadline_passed(deadline));
        for (; posted < MESSAGES && posted - complete < POSTED; posted++)
            assert_int_equal(net_irecv(&net, comm, in[posted % POSTED], ROOM, &requests[posted % POSTED]), ncclSuccess);
        random = random * 1103515245 + 12345;
        size_t cut = 1 + (random >> 16) % 47;
        if (cut > length - sent) cut = length - sent;
        if (cut) assert_int_equal(send(fd, stream + sent, cut, MSG_NOSIGNAL), cut);
        sent += cut;
        int done = 1, size = -1;
        while (done && complete < posted) {
            assert_int_equal(net.test(requests[complete % POSTED], &done, &size), ncclSuccess);
            if (!done) break;
            assert_int_equal(size, sizes[complete]);
            assert_true(net_check(in[complete % POSTED], sizes[complete], (uint64_t)complete));
            complete++;
        }
    }
    net.closeRecv(comm);
    close(fd);
    free(stream);
}

static void a_damaged_stream_is_the_peers_fault(void **state) {
    (void)state;
    char frames[7][FRAME], in[8];
    put_frame(frames[0], 0, 0, 4);
    frames[0][0] = 'X';
    put_frame(frames[1], 0, 0, UINT32_MAX);
    put_piece(frames[2], 0, 0, 4, 5, 1);          /* begins behind the end */
    put_piece(frames[3], 0, 0, 4, 2, UINT32_MAX); /* ends behind it */
    put_piece(frames[4], 0, 0, 4, 0, 0);          /* empty, but the message is not */
    put_frame(frames[5], 0, 1, 4);                /* message 0 never comes */
    put_frame(frames[6], 0, UINT32_MAX, 4);       /* came long ago, if ever */
    for (int i = 0; i < 7; i++) {
        int fd;
        void *comm = accept_by_hand(&fd), *request;
        net_log_clear();
        assert_int_equal(net_irecv(&net, comm, in, sizeof in, &request), ncclSuccess);
        assert_int_equal(send(fd, frames[i], FRAME, 0), FRAME);
        assert_int_equal(net_wait(&net, request, 20, NULL), ncclRemoteError);
        assert_int_equal(net_log_count("the stream is damaged"), 1);
        net.closeRecv(comm);
        close(fd);
    }
}

static void send_piece(int fd, uint32_t number, uint32_t size, uint32_t offset, uint32_t length) {
    char bytes[FRAME + 100], whole[100];
    net_fill(whole, size, number);
    put_piece(bytes, 7, number, size, offset, length);
    memcpy(bytes + FRAME, whole + offset, length);
    assert_int_equal(send(fd, bytes, FRAME + length, MSG_NOSIGNAL), FRAME + length);
}

/* Pieces on three connections, later ones first, and messages that have to wait for others. */
static void pieces_come_on_any_connection(void **state) {
    (void)state;
    enum { MESSAGES = 4 };
    static const uint32_t sizes[MESSAGES] = {90, 0, 50, 30};
    int fds[3], done = 0, size = -1;
    char in[MESSAGES][100];
    void *comm = accept_lanes_by_hand(3, fds), *requests[MESSAGES];
    for (int i = 0; i < MESSAGES; i++)
        assert_int_equal(net_irecv(&net, comm, in[i], sizeof in[i], &requests[i]), ncclSuccess);
    send_piece(fds[2], 3, sizes[3], 0, sizes[3]);
    send_piece(fds[1], 0, sizes[0], 40, 50);
    send_piece(fds[1], 2, sizes[2], 20, 30);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(net.test(requests[3], &done, &size), ncclSuccess);
        assert_int_equal(done, 0);
    }
    send_piece(fds[0], 0, sizes[0], 0, 40);
    assert_int_equal(net_wait(&net, requests[0], 20, &size), ncclSuccess);
    assert_int_equal(size, sizes[0]);
    send_piece(fds[0], 1, 0, 0, 0);
    assert_int_equal(net_wait(&net, requests[3], 20, &size), ncclSuccess);
    assert_int_equal(size, sizes[3]);
    assert_int_equal(net_wait(&net, requests[1], 20, &size), ncclSuccess);
    assert_int_equal(size, 0);
    send_piece(fds[0], 2, sizes[2], 0, 20);
    assert_int_equal(net_wait(&net, requests[2], 20, &size), ncclSuccess);
    assert_int_equal(size, sizes[2]);
    for (int i = 0; i < MESSAGES; i++)
        assert_true(net_check(in[i], sizes[i], (uint64_t)i));
    net.closeRecv(comm);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
}

/* One that would not even show in the message's count of bytes, and goes beyond its end. */
static void a_piece_that_is_longer_than_its_message_writes_nothing(void **state) {
    (void)state;
    int fd;
    char in[16], frame[FRAME];
    memset(in, 0x5a, sizeof in);
    void *comm = accept_by_hand(&fd), *request;
    net_log_clear();
    assert_int_equal(net_irecv(&net, comm, in, 8, &request), ncclSuccess);
    put_piece(frame, 7, 0, 8, 4, 8);
    assert_int_equal(send(fd, frame, FRAME, 0), FRAME);
    assert_int_equal(send(fd, "overflow", 8, 0), 8);
    assert_int_equal(net_wait(&net, request, 20, NULL), ncclRemoteError);
    assert_int_equal(net_log_count("the stream is damaged"), 1);
    for (size_t i = 0; i < sizeof in; i++)
        assert_int_equal(in[i], 0x5a);
    net.closeRecv(comm);
    close(fd);
}

/* What the two connections do after message 0's first half. */
typedef enum { OVERLAP, OTHER_SIZE, BOTH_AHEAD, ONE_ENDS, BOTH_END, CUT, FAULTS } fault_t;

static void a_fault_on_one_of_several_connections_is_found(void **state) {
    (void)state;
    for (fault_t fault = 0; fault < FAULTS; fault++) {
        int fds[2];
        char in[100];
        void *comm = accept_lanes_by_hand(2, fds), *request;
        net_log_clear();
        assert_int_equal(net_irecv(&net, comm, in, sizeof in, &request), ncclSuccess);
        send_piece(fds[0], 0, 80, 0, 40);
        if (fault == OVERLAP) send_piece(fds[1], 0, 80, 39, 41);
        if (fault == OTHER_SIZE) send_piece(fds[1], 0, 90, 40, 10);
        if (fault == BOTH_AHEAD || fault == ONE_ENDS) send_piece(fds[0], 2, 10, 0, 10);
        if (fault == BOTH_AHEAD) send_piece(fds[1], 3, 10, 0, 10);
        if (fault == CUT) assert_int_equal(send(fds[1], "TPVM", 4, 0), 4);
        if (fault >= ONE_ENDS) shutdown(fds[1], SHUT_WR);
        if (fault == BOTH_END) shutdown(fds[0], SHUT_WR);
        assert_int_equal(net_wait(&net, request, 20, NULL), ncclRemoteError);
        assert_int_equal(net_log_count(fault < ONE_ENDS ? "the stream is damaged" : "the peer closed the connection"),
                         1);
        net.closeRecv(comm);
        close(fds[0]);
        close(fds[1]);
    }
}

/* A comm of the plugin that has said hello to the plain socket *fd, which has buffers as small as the kernel allows. */
static void *greet_by_hand(int *fd) {
    char handle[NCCL_NET_HANDLE_MAXSIZE] = "TPVHANDL\3\0\1", greeting[GREETING], expected[32] = "TPVHELLO\3\0\4\0\1";
    void *comm = NULL;
    int small = 1;
    struct sockaddr_in address = loopback(0);
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &length), 0);
    uint16_t port = ntohs(address.sin_port);
    memcpy(handle + 16, "sixteen bytes id", 16);
    handle[32] = 4;
    memcpy(handle + 34, &port, 2);
    memcpy(handle + 36, &address.sin_addr, 4);
    for (int64_t deadline = tpv_deadline_in(20); !comm;) {
        assert_false(tpv_deadline_passed(deadline));
        assert_int_equal(net_connect(&net, 0, handle, &comm), ncclSuccess);
    }
    *fd = accept(listener, NULL, NULL);
    assert_int_equal(recv(*fd, greeting, GREETING, MSG_WAITALL), GREETING);
    memcpy(expected + 16, handle + 16, 16);
    assert_memory_equal(greeting, expected, 32);
    assert_memory_equal(greeting + HELLO, "\1\0\0", 4);
    close(listener);
    return comm;
}

static void *isend_once(void *comm, int tag, ncclResult_t expected) {
    static char byte = 'x'; /* must outlive the send */
    void *request = &request;
    assert_int_equal(net.isend(comm, &byte, 1, tag, NULL, NULL, &request), expected);
    return request;
}

/* Bytes that the plugin has not read of what was sent to it over `fd`; -1: it has no such connection. */
static int unread_of(int fd) {
    struct sockaddr_in peer, own;
    socklen_t length = sizeof peer;
    assert_int_equal(getpeername(fd, (struct sockaddr *)&peer, &length), 0);
    for (int other = 3; other < 256; other++) {
        int unread = 0;
        length = sizeof own;
        if (other == fd || getsockname(other, (struct sockaddr *)&own, &length) != 0) continue;
        if (length != sizeof own || memcmp(&own, &peer, sizeof own) != 0) continue;
        assert_int_equal(ioctl(other, FIONREAD, &unread), 0);
        return unread;
    }
    return -1;
}

/* Until the plugin's end has `size` bytes that it has not read: what send took may come there a little later. */
static void await_unread(int fd, int size) {
    for (int64_t deadline = tpv_deadline_in(20); unread_of(fd) < size;)
        assert_false(tpv_deadline_passed(deadline));
}

/* A send that needs nobody to ask for it; the plugin may not have read the welcome yet. */
static void *isend_first(void *comm, int tag) {
    void *request = NULL;
    for (int64_t deadline = tpv_deadline_in(20); !request; request = isend_once(comm, tag, ncclSuccess))
        assert_false(tpv_deadline_passed(deadline));
    return request;
}

/* A sending comm of the plugin that *fd has welcomed. */
static void *connect_by_hand(int *fd) {
    void *comm = greet_by_hand(fd);
    const char welcome[WELCOME] = "TPVWELCM\3\0\0\0\1";
    for (int i = 0; i < WELCOME; i++) {
        assert_null(isend_once(comm, 7, ncclSuccess));
        send_byte(*fd, welcome + i);
    }
    return comm;
}

/* Whatever answers, sending fails as the peer's fault, and not before it is tried. */
static void a_wrong_welcome_is_the_peers_fault(void **state) {
    (void)state;
    static const char welcomes[][WELCOME] = {
        "SSH-2.0-OpenSSH",        /* another program */
        "TPVWELCM\2\0\0\0\1",     /* another version */
        "TPVWELCM\3\0\0\0\2",     /* a transport that was not offered */
        "TPVWELCM\3\0\1\0\1",     /* an answer where there is none; a byte follows */
        "TPVWELCM\3\0\377\377\1", /* a longer one than there is */
    };
    for (size_t i = 0; i <= sizeof welcomes / sizeof *welcomes; i++) {
        int fd;
        net_log_clear();
        void *comm = greet_by_hand(&fd);
        if (i == sizeof welcomes / sizeof *welcomes) {
            shutdown(fd, SHUT_WR);
        } else {
            assert_int_equal(send(fd, welcomes[i], WELCOME, 0), WELCOME);
            if (i == 3) send_byte(fd, "x");
        }
        assert_int_equal(net_wait(&net, isend_first(comm, 7), 20, NULL), ncclRemoteError);
        assert_int_equal(net_log_count("what answers there is not this plugin") +
                             net_log_count("the peer closed the connection without accepting it"),
                         1);
        net.closeSend(comm);
        close(fd);
    }
}

static void sent_messages_are_what_the_format_says(void **state) {
    (void)state;
    enum { MESSAGES = 24 };
    size_t length = 0, got = 0;
    char *payload = malloc(70000), *expected = malloc(MESSAGES * (70000 + FRAME)),
         *stream = malloc(MESSAGES * (70000 + FRAME));
    int fd, left = MESSAGES;
    void *comm = connect_by_hand(&fd), *requests[MESSAGES];
    net_fill(payload, 70000, 9);
    for (int i = 0; i < MESSAGES; i++) {
        size_t size = i % 4 == 3 ? 70000 - (size_t)i : (size_t)i % 3 * 700;
        put_frame(expected + length, 7, (uint32_t)i, (uint32_t)size);
        memcpy(expected + length + FRAME, payload, size);
        length += FRAME + size;
        assert_int_equal(net_isend(&net, comm, payload, size, &requests[i]), ncclSuccess);
    }
    uint32_t random = 1;
    for (int64_t deadline = tpv_deadline_in(30); left || got < length;) {
        assert_false(tpv_deadline_passed(deadline));
        for (int i = MESSAGES - 1; i >= 0; i--) {
            int done = 0;
            if (!requests[i]) continue;
            assert_int_equal(net.test(requests[i], &done, NULL), ncclSuccess);
            if (!done) continue;
            requests[i] = NULL;
            left--;
        }
        random = random * 1103515245 + 12345;
        ssize_t count = recv(fd, stream + got, 1 + (random >> 16) % 3000, MSG_DONTWAIT);
        assert_true(count > 0 || (count < 0 && errno == EAGAIN));
        if (count > 0) got += (size_t)count;
        assert_true(got <= length);
    }
    assert_memory_equal(stream, expected, length);
    net.closeSend(comm);
    close(fd);
    free(payload);
    free(expected);
    free(stream);
}

static void put_notice(char *at, int32_t tag, uint64_t count) {
    memcpy(at, "TPVP", 4);
    memcpy(at + 4, &tag, 4);
    memcpy(at + 8, &count, 8);
}

static void *post_group(void *comm, int count, char *in, int *tags) {
    void *data[8], *registrations[8] = {0}, *request = NULL;
    size_t sizes[8];
    for (int i = 0; i < count; i++) {
        data[i] = in + i;
        sizes[i] = 1;
    }
    assert_int_equal(net.irecv(comm, count, data, sizes, tags, registrations, NULL, &request), ncclSuccess);
    assert_non_null(request);
    return request;
}

static void receives_are_told_when_their_tags_differ(void **state) {
    (void)state;
    char in[8], told[64], expected[32], frame[FRAME], byte;
    int fd, done, same[] = {7, 7}, different[] = {8, 7, 8}, one[] = {9};
    void *comm = accept_by_hand(&fd);
    net_log_clear();
    post_group(comm, 2, in, same);
    void *group = post_group(comm, 2, in, same);
    assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
    /* All that was posted before counts; equal tags share a notice. */
    post_group(comm, 3, in, different);
    put_notice(expected, 7, 5);
    put_notice(expected + 16, 8, 2);
    assert_int_equal(recv(fd, told, 32, MSG_WAITALL), 32);
    assert_memory_equal(told, expected, 32);
    post_group(comm, 1, in, one);
    put_notice(expected, 9, 1);
    assert_int_equal(recv(fd, told, 16, MSG_WAITALL), 16);
    assert_memory_equal(told, expected, 16);
    /* One tag may come early, a second one cannot. */
    for (int tag = 20; tag < 22; tag++) {
        put_frame(frame, tag, (uint32_t)tag - 20, 0);
        assert_int_equal(send(fd, frame, FRAME, 0), FRAME);
    }
    assert_int_equal(net_wait(&net, group, 20, NULL), ncclRemoteError);
    assert_int_equal(net_log_count("a message of 0 bytes with tag 21 that was not asked for"), 1);
    assert_int_equal(net.test(group, &done, NULL), ncclRemoteError);
    net.closeRecv(comm);
    close(fd);
}

static void early_messages_have_a_limit(void **state) {
    (void)state;
    char in[8], frame[FRAME];
    int fd, tags[] = {7};
    void *comm = accept_by_hand(&fd), *request = post_group(comm, 1, in, tags);
    net_log_clear();
    put_frame(frame, 20, 0, 1);
    assert_int_equal(send(fd, frame, FRAME, 0), FRAME);
    assert_int_equal(send(fd, "x", 1, 0), 1);
    put_frame(frame, 20, 1, UINT32_C(1) << 30);
    assert_int_equal(send(fd, frame, FRAME, 0), FRAME);
    assert_int_equal(net_wait(&net, request, 20, NULL), ncclRemoteError);
    assert_int_equal(net_log_count("that was not asked for"), 1);
    net.closeRecv(comm);
    close(fd);
}

static void notices_let_other_tags_go(void **state) {
    (void)state;
    char notices[32], stream[3 * (FRAME + 1)], expected[3 * (FRAME + 1)];
    int fd;
    void *comm = connect_by_hand(&fd), *first = isend_first(comm, 7);
    put_notice(notices, 7, 2);
    put_notice(notices + 16, -8, 1);
    for (int i = 0; i < 32; i++) {
        assert_null(isend_once(comm, -8, ncclSuccess));
        send_byte(fd, notices + i);
    }
    void *second = NULL, *third = isend_once(comm, 7, ncclSuccess);
    for (int64_t deadline = tpv_deadline_in(20); !second; second = isend_once(comm, -8, ncclSuccess))
        assert_false(tpv_deadline_passed(deadline));
    /* One of two for tag 7 was gone before. */
    assert_non_null(third);
    assert_null(isend_once(comm, 7, ncclSuccess));
    assert_null(isend_once(comm, -8, ncclSuccess));
    assert_null(isend_once(comm, 3, ncclSuccess));
    static const int tags[] = {7, 7, -8};
    for (int i = 0; i < 3; i++) {
        put_frame(expected + i * (FRAME + 1), tags[i], (uint32_t)i, 1);
        expected[i * (FRAME + 1) + FRAME] = 'x';
    }
    assert_int_equal(net_wait(&net, first, 20, NULL), ncclSuccess);
    assert_int_equal(net_wait(&net, second, 20, NULL), ncclSuccess);
    assert_int_equal(net_wait(&net, third, 20, NULL), ncclSuccess);
    assert_int_equal(recv(fd, stream, sizeof stream, MSG_WAITALL), sizeof stream);
    assert_memory_equal(stream, expected, sizeof stream);
    net.closeSend(comm);
    close(fd);
}

/* A connection that is closed before its peer has read everything stays open, but not for ever. */
static void lingering_ends_with_the_peer_timeout(void **state) {
    (void)state;
    enum { BIG = 1 << 20 };
    char notice[16], *big = calloc(1, BIG), handle[NCCL_NET_HANDLE_MAXSIZE];
    int fd, done = 0;
    void *comm = connect_by_hand(&fd), *request = NULL, *listener = NULL;
    assert_int_equal(net_isend(&net, comm, big, BIG, &request), ncclSuccess);
    assert_int_equal(net.test(request, &done, NULL), ncclSuccess);
    assert_int_equal(done, 0);
    put_notice(notice, 7, 1);
    assert_int_equal(send(fd, notice, sizeof notice, 0), sizeof notice);
    await_unread(fd, sizeof notice);
    assert_null(isend_once(comm, 8, ncclSuccess));
    int descriptors = net_open_descriptors();
    int64_t begun = tpv_clock_ns();
    net.closeSend(comm);
    assert_int_equal(net_open_descriptors(), descriptors);
    for (int64_t deadline = tpv_deadline_in(30); net_open_descriptors() >= descriptors;) {
        assert_false(tpv_deadline_passed(deadline));
        assert_int_equal(net_listen(&net, 0, handle, &listener), ncclSuccess);
        net.closeListen(listener);
    }
    assert_true(tpv_clock_ns() - begun >= 3 * TPV_NS_PER_SECOND);
    close(fd);
    free(big);
}

/* A peer may have notices without end: one call reads some of them only, be it a send or a close. */
static void many_notices_hold_no_call(void **state) {
    (void)state;
    enum { BIG = 1 << 20, NOTICES = 3072 };
    char *big = calloc(1, BIG), *notices = malloc((size_t)16 * NOTICES);
    int fd;
    void *comm = connect_by_hand(&fd), *request = NULL;
    for (size_t i = 0; i < NOTICES; i++)
        put_notice(notices + 16 * i, 7, 1);
    assert_int_equal(net_isend(&net, comm, big, BIG, &request), ncclSuccess);
    assert_int_equal(send(fd, notices, (size_t)16 * NOTICES, 0), 16 * NOTICES);
    await_unread(fd, 16 * NOTICES);
    assert_null(isend_once(comm, 8, ncclSuccess));
    int unread = unread_of(fd);
    assert_true(unread < 16 * NOTICES && unread > 8 * NOTICES);
    net.closeSend(comm);
    assert_true(unread_of(fd) < unread && unread_of(fd) > 0);
    close(fd);
    free(notices);
    free(big);
}

static void damaged_notices_are_the_peers_fault(void **state) {
    (void)state;
    enum { TOO_MANY = 300 };
    static char notices[5][16 * TOO_MANY];
    int counts[] = {1, 1, 2, TOO_MANY, 1};
    put_notice(notices[0], 1, 1);
    notices[0][0] = 'X';
    put_notice(notices[1], 1, UINT64_MAX);
    put_notice(notices[2], 1, INT64_MAX);
    put_notice(notices[2] + 16, 1, 1);
    for (int i = 0; i < TOO_MANY; i++)
        put_notice(notices[3] + 16 * i, i, 1);
    put_notice(notices[4], 1, 0);
    for (int i = 0; i < 5; i++) {
        int fd;
        void *comm = connect_by_hand(&fd), *request = NULL;
        net_log_clear();
        isend_first(comm, 7777);
        assert_int_equal(send(fd, notices[i], 16 * (size_t)counts[i], 0), 16 * counts[i]);
        for (int64_t deadline = tpv_deadline_in(20); !request; request = isend_once(comm, 8888, ncclSuccess))
            assert_false(tpv_deadline_passed(deadline));
        assert_int_equal(net_wait(&net, request, 20, NULL), ncclRemoteError);
        assert_int_equal(net_log_count("the stream is damaged: bytes that are no notice"), 1);
        net.closeSend(comm);
        close(fd);
    }
}

int main(void) {
    setenv("TPVIEW_NET_LOCAL", "0", 1); /* TCP */
    setenv("NCCL_SOCKET_IFNAME", "=lo", 1);
    setenv("NCCL_SOCKET_FAMILY", "AF_INET", 1);
    setenv("NCCL_SOCKET_SNDBUF", "1", 1);
    setenv("TPVIEW_NET_PEER_TIMEOUT", "3", 1);
    setenv("NCCL_SOCKET_NTHREADS", "0", 1);
    setenv("NCCL_NSOCKS_PERTHREAD", "1", 1);
    if (net_plugin_open(&net, net_plugin_path(NULL), 11) != ncclSuccess) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_that_comes_byte_by_byte),
        cmocka_unit_test(a_stream_that_is_cut_anywhere),
        cmocka_unit_test(a_damaged_stream_is_the_peers_fault),
        cmocka_unit_test(a_piece_that_is_longer_than_its_message_writes_nothing),
        cmocka_unit_test(pieces_come_on_any_connection),
        cmocka_unit_test(a_fault_on_one_of_several_connections_is_found),
        cmocka_unit_test(sent_messages_are_what_the_format_says),
        cmocka_unit_test(receives_are_told_when_their_tags_differ),
        cmocka_unit_test(early_messages_have_a_limit),
        cmocka_unit_test(notices_let_other_tags_go),
        cmocka_unit_test(lingering_ends_with_the_peer_timeout),
        cmocka_unit_test(many_notices_hold_no_call),
        cmocka_unit_test(damaged_notices_are_the_peers_fault),
        cmocka_unit_test(a_wrong_welcome_is_the_peers_fault),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    net_plugin_close(&net);
    return failed;
}
