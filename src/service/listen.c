#include "service/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/params.h"

#define BACKLOG 128

#define LOCK_SUFFIX ".lock"
#define LOCK_NAME_MAX (sizeof((struct sockaddr_un *)NULL)->sun_path + sizeof LOCK_SUFFIX)

static void lock_name(const char *path, char name[LOCK_NAME_MAX]) {
    snprintf(name, LOCK_NAME_MAX, "%s" LOCK_SUFFIX, path);
}

/*
 * The right to the path, for as long as *lock is open. Only its holder may take the path's old socket away: without it,
 * two services that start at the same time over what a dead one has left would each remove the other's. Its holder
 * removes the file before closing it, so whoever locked a file that has gone meanwhile tries again.
 */
static tpv_status_t lock_path(const char *path, int *lock) {
    char name[LOCK_NAME_MAX];
    lock_name(path, name);
    for (;;) {
        int l = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
        if (l < 0)
            return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot open %s, the lock of the Unix socket", name);
        struct stat locked, present;
        /* A file system that knows no locks gives none: then only the look at the socket protects it. */
        if (flock(l, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
            close(l);
            return tpv_error_set(TPV_ERR_REFUSED, "%s is in use by a running service: stop it, or give another path",
                                 path);
        }
        if (fstat(l, &locked) == 0 && lstat(name, &present) == 0 && locked.st_ino == present.st_ino &&
            locked.st_dev == present.st_dev) {
            *lock = l;
            return TPV_OK;
        }
        close(l);
    }
}

void tpv_listen_unlock(const char *path, int lock) {
    char name[LOCK_NAME_MAX];
    lock_name(path, name);
    unlink(path);
    unlink(name);
    close(lock);
}

static tpv_status_t not_a_socket(const char *path) {
    return tpv_error_set(TPV_ERR_ARGUMENT, "%s is there already and is not a socket", path);
}

static tpv_status_t listen_locked(const char *path, int *descriptor) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strlen(path) + 1);
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s < 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot make a Unix socket");
    tpv_status_t status = TPV_OK;
    struct stat present;
    if (lstat(path, &present) == 0) {
        if (!S_ISSOCK(present.st_mode)) {
            status = not_a_socket(path);
        } else if (connect(s, (struct sockaddr *)&address, sizeof address) == 0 || errno == EAGAIN) {
            status = tpv_error_set(TPV_ERR_REFUSED, "%s is in use by a running service: stop it, or give another path",
                                   path);
        } else {
            unlink(path);
        }
    }
    /* The mode is right from the first moment, not after a chmod. */
    if (status == TPV_OK) {
        mode_t mask = umask(0177);
        int failed = bind(s, (struct sockaddr *)&address, sizeof address);
        int error = errno;
        umask(mask);
        if (failed) status = tpv_error_set_errno(TPV_ERR_SYSTEM, error, "cannot bind %s", path);
    }
    if (status == TPV_OK && listen(s, BACKLOG) != 0)
        status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot listen on %s", path);
    if (status != TPV_OK) {
        close(s);
        return status;
    }
    *descriptor = s;
    return TPV_OK;
}

tpv_status_t tpv_listen_check_unix(const char *path) {
    size_t most = sizeof((struct sockaddr_un *)NULL)->sun_path - 1;
    if (!*path || strlen(path) > most)
        return tpv_error_set(TPV_ERR_ARGUMENT, "the path of the Unix socket has %zu bytes: expected 1 to %zu",
                             strlen(path), most);
    struct stat present;
    return lstat(path, &present) == 0 && !S_ISSOCK(present.st_mode) ? not_a_socket(path) : TPV_OK;
}

tpv_status_t tpv_listen_unix(const char *path, int *descriptor, int *lock) {
    TPV_TRY(tpv_listen_check_unix(path));
    TPV_TRY(lock_path(path, lock));
    tpv_status_t status = listen_locked(path, descriptor);
    if (status == TPV_OK) return TPV_OK;
    /* The path may be a living service's, which knows nothing of locks: only the lock goes. */
    char name[LOCK_NAME_MAX];
    lock_name(path, name);
    unlink(name);
    close(*lock);
    return status;
}

static bool is_loopback(const struct sockaddr *address) {
    if (address->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 == 127;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

static tpv_status_t resolve(const char *listen_at, struct addrinfo **found) {
    char host[256];
    const char *colon = strrchr(listen_at, ':');
    size_t length = colon ? (size_t)(colon - listen_at) : 0;
    int64_t port = 0;
    if (!colon || length >= sizeof host)
        return tpv_error_set(TPV_ERR_ARGUMENT, "--listen \"%s\": expected HOST:PORT", listen_at);
    if (strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
        tpv_parse_int("port", colon + 1, 0, UINT16_MAX, &port) != TPV_OK)
        return tpv_error_set(TPV_ERR_ARGUMENT, "--listen \"%s\": expected a port from 0 to %d behind the last \":\"",
                             listen_at, UINT16_MAX);
    const char *start = listen_at;
    if (length > 2 && *start == '[' && start[length - 1] == ']') {
        start++;
        length -= 2;
    }
    memcpy(host, start, length);
    host[length] = '\0';
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    /* Of both families, whatever the host's files say of it (rfc6761, 6.3): so it is without a name. */
    bool is_localhost = strcmp(host, "localhost") == 0;
    if (!is_localhost) hints.ai_flags |= AI_PASSIVE;
    int failed = getaddrinfo(*host && !is_localhost ? host : NULL, colon + 1, &hints, found);
    if (failed) return tpv_error_set(TPV_ERR_ARGUMENT, "--listen \"%s\": %s", listen_at, gai_strerror(failed));
    return TPV_OK;
}

/* The addresses to listen at, if that is allowed. The caller frees *found with freeaddrinfo. */
static tpv_status_t find_addresses(const char *listen_at, bool may_be_open, struct addrinfo **found) {
    TPV_TRY(resolve(listen_at, found));
    const struct addrinfo *address = *found;
    while (address && (may_be_open || is_loopback(address->ai_addr)))
        address = address->ai_next;
    if (!address) return TPV_OK;
    freeaddrinfo(*found);
    return tpv_error_set(
        TPV_ERR_PERMISSION,
        "--listen %s is reachable from other hosts: give --token-file, --admin-token-file or --tls-client-ca, or "
        "--insecure to let anybody fetch",
        listen_at);
}

tpv_status_t tpv_listen_check_tcp(const char *listen_at, bool may_be_open) {
    struct addrinfo *found = NULL;
    TPV_TRY(find_addresses(listen_at, may_be_open, &found));
    freeaddrinfo(found);
    return TPV_OK;
}

static const struct addrinfo *first_of(const struct addrinfo *found, int family) {
    while (found && found->ai_family != family)
        found = found->ai_next;
    return found;
}

/* Listen at one address, at *port when that is not 0; *port is the one that it has got. -1 with errno. */
static int listen_at_one(const struct addrinfo *address, bool both, in_port_t *port) {
    struct sockaddr_storage local;
    socklen_t bytes = sizeof local;
    int on = 1;
    /* The port has the same place in both families' addresses. */
    struct sockaddr_in *numbered = (struct sockaddr_in *)&local;
    memcpy(&local, address->ai_addr, address->ai_addrlen);
    if (*port) numbered->sin_port = *port;
    int s = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s < 0) return -1;
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    /* IPv4 has a socket of its own. */
    if (both && address->ai_family == AF_INET6) setsockopt(s, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (bind(s, (struct sockaddr *)&local, address->ai_addrlen) == 0 && listen(s, BACKLOG) == 0 &&
        getsockname(s, (struct sockaddr *)&local, &bytes) == 0) {
        *port = numbered->sin_port;
        return s;
    }
    int error = errno;
    close(s);
    errno = error;
    return -1;
}

/* A name may stand for a family that this host does not have. */
static bool is_absent(int error) {
    return error == EAFNOSUPPORT || error == EADDRNOTAVAIL;
}

static int listen_at_all(const struct addrinfo *found, int descriptors[TPV_LISTEN_MOST], unsigned *count) {
    static const int families[TPV_LISTEN_MOST] = {AF_INET, AF_INET6};
    bool both = first_of(found, AF_INET) && first_of(found, AF_INET6);
    in_port_t port = 0;
    int error = 0;
    *count = 0;
    for (int i = 0; i < TPV_LISTEN_MOST; i++) {
        const struct addrinfo *address = first_of(found, families[i]);
        if (!address) continue;
        int s = listen_at_one(address, both, &port);
        if (s >= 0)
            descriptors[(*count)++] = s;
        else if (!error || is_absent(error))
            error = errno;
    }
    if (*count && (!error || is_absent(error))) return 0;
    while (*count)
        close(descriptors[--*count]);
    return error ? error : EAFNOSUPPORT;
}

tpv_status_t tpv_listen_tcp(const char *listen_at, bool may_be_open, int descriptors[TPV_LISTEN_MOST],
                            unsigned *count) {
    struct addrinfo *found = NULL;
    TPV_TRY(find_addresses(listen_at, may_be_open, &found));
    bool any_port = ((const struct sockaddr_in *)found->ai_addr)->sin_port == 0;
    int error = EADDRINUSE;
    /* The port that one family has picked may be taken in the other. */
    for (int tries = any_port ? 16 : 1; error == EADDRINUSE && tries > 0; tries--)
        error = listen_at_all(found, descriptors, count);
    freeaddrinfo(found);
    return error ? tpv_error_set_errno(TPV_ERR_SYSTEM, error, "cannot listen on %s", listen_at) : TPV_OK;
}
