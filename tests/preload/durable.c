/*
 * Watches in which order a program makes a file last, as a crash at any moment would tell it. A file that is written is
 * dirty until it is synced. A rename of a dirty file, a write to a file that has got its name, or a program that ends
 * before the folder of a new name was synced would be found after a power failure as wrong bytes or as no file: the
 * program is stopped with a line that says so and exit code 99.
 *   TEST_DURABLE_LOG  a file that gets a line for each sync and rename, so that a test sees that there were any
 * Follows names that end in ".partial" only.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <libgen.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))
enum { CLEAN, DIRTY, NAMED, SYNCED };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
/* One file at a time, told by its inode; under mutex. */
static ino_t file, folder;
static int state;

static void note(const char *what) {
    const char *path = getenv("TEST_DURABLE_LOG");
    FILE *log = path ? fopen(path, "a") : NULL;
    if (!log) return;
    fprintf(log, "%s\n", what);
    fclose(log);
}

static void stop(const char *why) {
    dprintf(STDERR_FILENO, "durable: %s\n", why);
    _exit(99);
}

static ino_t inode_of(int fd) {
    struct stat info;
    return fstat(fd, &info) == 0 ? info.st_ino : 0;
}

static int is_partial(const char *name) {
    size_t length = strlen(name);
    return length > 8 && strcmp(name + length - 8, ".partial") == 0;
}

static void written(int fd) {
    pthread_mutex_lock(&mutex);
    if (file && inode_of(fd) == file) {
        if (state >= NAMED) stop("a file that has its name was written to");
        state = DIRTY;
    }
    pthread_mutex_unlock(&mutex);
}

static void synced(int fd) {
    pthread_mutex_lock(&mutex);
    ino_t inode = inode_of(fd);
    if (file && inode == file && state == DIRTY) {
        state = CLEAN;
        note("file");
    } else if (folder && inode == folder && state == NAMED) {
        state = SYNCED;
        note("folder");
    }
    pthread_mutex_unlock(&mutex);
}

EXPORTED ssize_t pwrite(int fd, const void *data, size_t length, off_t offset);
EXPORTED int fdatasync(int fd);
EXPORTED int fsync(int fd);
EXPORTED int rename(const char *from, const char *to);

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    ssize_t (*actual)(int, const void *, size_t, off_t) =
        (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    char link[64], name[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t bytes = readlink(link, name, sizeof name - 1);
    name[bytes > 0 ? bytes : 0] = '\0';
    pthread_mutex_lock(&mutex);
    if (is_partial(name)) file = inode_of(fd);
    pthread_mutex_unlock(&mutex);
    ssize_t wrote = actual(fd, data, length, offset);
    written(fd);
    return wrote;
}

int fdatasync(int fd) {
    int (*actual)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    int result = actual(fd);
    if (result == 0) synced(fd);
    return result;
}

int fsync(int fd) {
    int (*actual)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    int result = actual(fd);
    if (result == 0) synced(fd);
    return result;
}

int rename(const char *from, const char *to) {
    int (*actual)(const char *, const char *) = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    struct stat info;
    char copy[4096];
    snprintf(copy, sizeof copy, "%s", to);
    pthread_mutex_lock(&mutex);
    if (is_partial(from) && state == DIRTY) stop("a file was given its name before its bytes were on the disk");
    int result = actual(from, to);
    if (result == 0 && is_partial(from)) {
        state = NAMED;
        folder = stat(dirname(copy), &info) == 0 ? info.st_ino : 0;
        note("name");
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

__attribute__((destructor)) static void look(void) {
    if (state == NAMED) stop("the program ended before a new name was on the disk");
}
