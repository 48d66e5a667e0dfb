#include "local/peer.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What is needed of /proc/PID/stat, see proc(5). */
typedef struct {
    char state;
    long threads;
    uint64_t began;
} stat_t;

static bool read_file(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t length = read(fd, text, size - 1);
    close(fd);
    if (length <= 0) return false;
    text[length] = '\0';
    return true;
}

static bool read_stat(const char *path, stat_t *stat) {
    char text[1024];
    if (!read_file(path, text, sizeof text)) return false;
    /* The second field is the program's name in parentheses, and may have anything in it. */
    const char *rest = strrchr(text, ')');
    return rest && sscanf(rest, ") %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %ld %*s %" SCNu64,
                          &stat->state, &stat->threads, &stat->began) == 3;
}

static bool dead(char state) {
    return state == 'Z' || state == 'X' || state == 'x';
}

void tpv_local_peer_watch(tpv_local_peer_t *peer, int pid) {
    char path[64];
    stat_t stat;
    *peer = (tpv_local_peer_t){.pid = pid, .task = pid};
    peer->alive = (int)syscall(SYS_pidfd_open, pid, 0);
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (read_stat(path, &stat)) peer->began = stat.began;
}

void tpv_local_peer_forget(tpv_local_peer_t *peer) {
    if (peer->alive >= 0) close(peer->alive);
    *peer = (tpv_local_peer_t){.alive = -1};
}

bool tpv_local_peer_same_user(const tpv_local_peer_t *peer) {
    char path[64], text[4096];
    unsigned ids[3];
    snprintf(path, sizeof path, "/proc/%d/status", peer->pid);
    if (!read_file(path, text, sizeof text)) return false;
    const char *line = strstr(text, "\nUid:");
    if (!line || sscanf(line, "\nUid: %u %u %u", &ids[0], &ids[1], &ids[2]) != 3) return false;
    return ids[0] == geteuid() && ids[1] == geteuid() && ids[2] == geteuid();
}

bool tpv_local_peer_find_task(tpv_local_peer_t *peer) {
    char path[320];
    int found = 0;
    snprintf(path, sizeof path, "/proc/%d/task", peer->pid);
    DIR *folder = opendir(path);
    /* cppcheck-suppress readdirCalled */
    for (const struct dirent *entry; folder && !found && (entry = readdir(folder));) {
        int task = atoi(entry->d_name);
        stat_t stat;
        snprintf(path, sizeof path, "/proc/%d/task/%s/stat", peer->pid, entry->d_name);
        if (task > 0 && task != peer->task && read_stat(path, &stat) && !dead(stat.state)) found = task;
    }
    if (folder) closedir(folder);
    if (found) peer->task = found;
    return found != 0;
}

bool tpv_local_peer_ended(const tpv_local_peer_t *peer) {
    char path[64];
    stat_t stat;
    if (!peer->began) return false;
    snprintf(path, sizeof path, "/proc/%d/stat", peer->pid);
    if (!read_stat(path, &stat) || stat.began != peer->began) return true;
    /* A main thread that has ended stays until the others have. */
    return dead(stat.state) && stat.threads <= 1;
}
