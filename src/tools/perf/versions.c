#include "tools/perf/versions.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

#define CONTROL_SECONDS 60

static bool is_listed(const struct dirent *entry) {
    return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

static bool has_tensors(const char *name) {
    static const char end[] = ".safetensors";
    size_t length = strlen(name);
    return length > sizeof end - 1 && strcmp(name + length - (sizeof end - 1), end) == 0;
}

/* The folder's smallest file with tensors. */
static tpv_status_t choose(int folder, const char *path, char chosen[256]) {
    DIR *list = fdopendir(dup(folder));
    off_t smallest = 0;
    *chosen = '\0';
    if (!list) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot read %s", path);
    rewinddir(list);
    /* cppcheck-suppress readdirCalled ; one stream for each call, so it is thread-safe (readdir(3)) */
    for (struct dirent *entry; (entry = readdir(list));) {
        struct stat info;
        if (!has_tensors(entry->d_name) || fstatat(folder, entry->d_name, &info, 0) != 0) continue;
        if (*chosen && info.st_size >= smallest) continue;
        smallest = info.st_size;
        snprintf(chosen, 256, "%s", entry->d_name);
    }
    closedir(list);
    if (!*chosen) return tpv_error_set(TPV_ERR_NOT_FOUND, "%s has no safetensors file", path);
    return TPV_OK;
}

static tpv_status_t copy(int from, int to, const char *name) {
    struct stat info;
    int in = openat(from, name, O_RDONLY | O_CLOEXEC);
    int out = in < 0 ? -1 : openat(to, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    bool done = out >= 0 && fstat(in, &info) == 0;
    for (off_t gone = 0; done && gone < info.st_size;) {
        ssize_t count = copy_file_range(in, NULL, out, NULL, (size_t)(info.st_size - gone), 0);
        if (count == 0) errno = EIO; /* it has shrunk */
        done = count > 0;
        gone += count;
    }
    int error = errno;
    if (in >= 0) close(in);
    if (out >= 0) close(out);
    return done ? TPV_OK : tpv_error_set_errno(TPV_ERR_SYSTEM, error, "cannot copy %s", name);
}

/* Change one byte of the values, another way for each number. They begin behind a header whose length stands in front
 * (safetensors). */
static tpv_status_t change(int folder, const char *name, unsigned number) {
    uint64_t header = 0;
    uint8_t byte = 0;
    int fd = openat(folder, name, O_RDWR | O_CLOEXEC);
    bool done = fd >= 0 && pread(fd, &header, sizeof header, 0) == (ssize_t)sizeof header && header < INT32_MAX;
    off_t at = (off_t)(sizeof header + header) + number / UINT8_MAX;
    done = done && pread(fd, &byte, 1, at) == 1;
    byte += (uint8_t)(1 + number % UINT8_MAX);
    done = done && pwrite(fd, &byte, 1, at) == 1;
    int error = errno;
    if (fd >= 0) close(fd);
    return done ? TPV_OK : tpv_error_set_errno(TPV_ERR_SYSTEM, error, "cannot change %s", name);
}

/* Not a hard link: that would be a change of the file's state, which the service would notice. */
static tpv_status_t point(const char *path, const char *name, int to) {
    char *target = NULL;
    if (asprintf(&target, "%s/%s", path, name) < 0) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory");
    int error = symlinkat(target, to, name) == 0 ? 0 : errno;
    free(target);
    return error ? tpv_error_set_errno(TPV_ERR_SYSTEM, error, "cannot link to %s/%s", path, name) : TPV_OK;
}

static tpv_status_t fill(int from, int to, const char *path, const char *chosen) {
    DIR *list = fdopendir(dup(from));
    tpv_status_t status = TPV_OK;
    if (!list) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot read %s", path);
    rewinddir(list);
    /* cppcheck-suppress readdirCalled ; one stream for each call, so it is thread-safe (readdir(3)) */
    for (struct dirent *entry; status == TPV_OK && (entry = readdir(list));) {
        struct stat info;
        if (fstatat(from, entry->d_name, &info, 0) != 0 || !S_ISREG(info.st_mode)) continue;
        status = strcmp(entry->d_name, chosen) == 0 ? copy(from, to, chosen) : point(path, entry->d_name, to);
    }
    closedir(list);
    return status;
}

static tpv_status_t make(const tpv_versions_t *versions, const char *folder) {
    char chosen[256];
    if (mkdir(folder, 0755) != 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot make %s", folder);
    int from = open(versions->checkpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC), to = -1;
    tpv_status_t status = TPV_OK;
    if (from < 0 || (to = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot open %s", from < 0 ? versions->checkpoint : folder);
    if (status == TPV_OK) status = choose(from, versions->checkpoint, chosen);
    if (status == TPV_OK) status = fill(from, to, versions->checkpoint, chosen);
    if (status == TPV_OK) status = change(to, chosen, versions->count);
    if (from >= 0) close(from);
    if (to >= 0) close(to);
    return status;
}

static void drop(const char *label, const char *folder, tpv_source_t *source) {
    if (*label && tpv_source_retire(source, label, CONTROL_SECONDS) != TPV_OK)
        TPV_WARN("cannot retire %s: %s", label, tpv_error_message());
    int fd = *folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    DIR *list = fd >= 0 ? fdopendir(fd) : NULL;
    if (!list && fd >= 0) close(fd);
    /* cppcheck-suppress readdirCalled ; one stream for each call, so it is thread-safe (readdir(3)) */
    for (struct dirent *entry; list && (entry = readdir(list));)
        if (is_listed(entry)) (void)unlinkat(fd, entry->d_name, 0);
    if (list) closedir(list);
    if (*folder && rmdir(folder) != 0) TPV_WARN("cannot remove %s: %m", folder);
}

tpv_status_t tpv_versions_next(tpv_versions_t *versions, double deadline_s) {
    char folder[sizeof versions->folder], label[sizeof versions->label], *definition = NULL;
    int process = (int)getpid();
    versions->count++;
    int length = snprintf(folder, sizeof folder, "%s.perf-%d-%u", versions->checkpoint, process, versions->count);
    int size = snprintf(label, sizeof label, "%.*s.perf-%d@%u", (int)strcspn(versions->name, "@"), versions->name,
                        process, versions->count);
    if (length < 0 || (size_t)length >= sizeof folder || size < 0 || (size_t)size >= sizeof label)
        return tpv_error_set(TPV_ERR_ARGUMENT, "%s: too long a name", versions->checkpoint);
    tpv_status_t status = make(versions, folder);
    if (status == TPV_OK && asprintf(&definition, "%s=%s", label, folder) < 0)
        status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory");
    if (status == TPV_OK) status = tpv_source_publish(versions->source, definition, deadline_s);
    free(definition);
    if (status != TPV_OK) {
        char message[TPV_ERROR_MAX];
        snprintf(message, sizeof message, "%s", tpv_error_message());
        /* It may be on offer all the same, or come to be. */
        if (status == TPV_ERR_DEADLINE || status == TPV_ERR_PEER)
            (void)tpv_source_retire(versions->source, label, CONTROL_SECONDS);
        drop("", folder, versions->source);
        return tpv_error_set(status, "new version: %s", message);
    }
    tpv_versions_end(versions);
    memcpy(versions->folder, folder, sizeof folder);
    memcpy(versions->label, label, sizeof label);
    return TPV_OK;
}

void tpv_versions_end(tpv_versions_t *versions) {
    drop(versions->label, versions->folder, versions->source);
    *versions->folder = *versions->label = '\0';
}
