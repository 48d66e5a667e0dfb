#include "artifact/digest_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/identity.h"
#include "base/log.h"
#include "base/params.h"

/* Coarser than the timestamps of the file systems in use (FAT has 2 s, NFS may have 1 s). */
#define SETTLED_NS (INT64_C(3) * TPV_NS_PER_SECOND)

/* The folder, or NULL when the environment names none; the caller frees it. */
static char *cache_folder(void) {
    char *folder = NULL;
    const char *given = tpv_param_string(TPV_PARAM_CACHE_DIR);
    if (*given) return strdup(given);
    /* The XDG base directory specification (0.8) has relative paths ignored. */
    const char *xdg = getenv("XDG_CACHE_HOME");
    if (xdg && *xdg == '/') return asprintf(&folder, "%s/tpview", xdg) < 0 ? NULL : folder;
    const char *home = getenv("HOME");
    if (home && *home == '/') return asprintf(&folder, "%s/.cache/tpview", home) < 0 ? NULL : folder;
    return NULL;
}

static bool make_folder(char *folder) {
    for (char *slash = strchr(folder + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        bool good = mkdir(folder, 0700) == 0 || errno == EEXIST;
        *slash = '/';
        if (!good) return false;
    }
    return mkdir(folder, 0700) == 0 || errno == EEXIST;
}

/* Where the entry of these files lies; the caller frees it. */
static char *entry_path(const char *folder, const tpv_artifact_t *artifact, const tpv_file_state_t *states) {
    char name[TPV_IDENTITY_CHARS];
    tpv_identity_t identity = tpv_identity_begin("tpview-cache-1");
    for (uint32_t i = 0; i < artifact->file_count; i++) {
        tpv_identity_add_u64(&identity, states[i].device);
        tpv_identity_add_u64(&identity, states[i].inode);
    }
    char *path = NULL;
    if (tpv_identity_end(&identity, name) != TPV_OK || asprintf(&path, "%s/%s.digest", folder, name) < 0) return NULL;
    return path;
}

/*
 * The text of an entry, which the files and the id determine wholly, so it is compared and not parsed: without an id it
 * is the beginning that an entry must have. The caller frees it; NULL when out of memory.
 */
static char *entry_text(const tpv_artifact_t *artifact, const tpv_file_state_t *states, const char *id) {
    char *text = NULL, digits[TPV_IDENTITY_CHARS];
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    if (!stream) return NULL;
    fprintf(stream, "tpview-digest-1\nindex_digest %s\n", artifact->index_digest);
    for (uint32_t i = 0; i < artifact->file_count; i++)
        fprintf(stream, "file %llu %llu %llu %lld %lld\n", (unsigned long long)states[i].device,
                (unsigned long long)states[i].inode, (unsigned long long)states[i].size, (long long)states[i].mtime_ns,
                (long long)states[i].ctime_ns);
    fputs("artifact_id ", stream);
    bool good = fflush(stream) == 0;
    if (good && id) {
        fprintf(stream, "%s\n", id);
        good = fflush(stream) == 0;
        tpv_identity_t check = tpv_identity_begin("tpview-cache-check-1");
        if (good) tpv_identity_add(&check, text, length);
        good = tpv_identity_end(&check, digits) == TPV_OK && good;
        fprintf(stream, "check %s\n", digits);
    }
    good = good && !ferror(stream);
    if (fclose(stream) == 0 && good) return text;
    free(text);
    return NULL;
}

/* Read all of a file that must have exactly `length` bytes. */
static bool read_exactly(const char *path, char *text, size_t length) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (descriptor < 0) return false;
    struct stat info;
    bool good = fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode) && (uint64_t)info.st_size == length;
    size_t have = 0;
    while (good && have < length) {
        ssize_t got = read(descriptor, text + have, length - have);
        if (got > 0) have += (size_t)got;
        good = got > 0 || (got < 0 && errno == EINTR);
    }
    close(descriptor);
    return good;
}

bool tpv_digest_cache_find(const tpv_artifact_t *artifact, const tpv_file_state_t *states, char id[TPV_ID_CHARS]) {
    char *folder = cache_folder();
    char *path = folder ? entry_path(folder, artifact, states) : NULL;
    char *begin = entry_text(artifact, states, NULL);
    char *found = NULL, *whole = NULL;
    bool good = false;
    if (path && begin) {
        size_t prefix = strlen(begin);
        size_t length = prefix + (TPV_ID_CHARS - 1) + strlen("\ncheck ") + (TPV_IDENTITY_CHARS - 1) + 1;
        found = calloc(1, length + 1);
        if (found && read_exactly(path, found, length) && memcmp(found, begin, prefix) == 0) {
            memcpy(id, found + prefix, TPV_ID_CHARS - 1);
            id[TPV_ID_CHARS - 1] = '\0';
            whole = tpv_identity_valid(id) ? entry_text(artifact, states, id) : NULL;
            good = whole && strcmp(whole, found) == 0;
        }
    }
    if (good) TPV_INFO("digest of %s taken from %s", artifact->files[0].path, path);
    free(whole);
    free(found);
    free(begin);
    free(path);
    free(folder);
    return good;
}

static bool write_all(int descriptor, const char *text, size_t length) {
    while (length > 0) {
        ssize_t written = write(descriptor, text, length);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        text += written;
        length -= (size_t)written;
    }
    return true;
}

/* A reader sees the old entry or the new one, never half of it. */
static bool replace(const char *path, const char *text) {
    char *temporary = NULL;
    if (asprintf(&temporary, "%s.XXXXXX", path) < 0) return false;
    int descriptor = mkostemp(temporary, O_CLOEXEC);
    bool good = descriptor >= 0;
    if (good) {
        good = write_all(descriptor, text, strlen(text));
        good = close(descriptor) == 0 && good;
        good = good && rename(temporary, path) == 0;
        if (!good) unlink(temporary);
    }
    free(temporary);
    return good;
}

void tpv_digest_cache_store(const tpv_artifact_t *artifact, const tpv_file_state_t *states, int64_t begun_ns,
                            const char *id) {
    /* A write within the grain of a file's timestamps may leave them as they are: like git's racy index entries. */
    for (uint32_t i = 0; i < artifact->file_count; i++)
        if (states[i].mtime_ns > begun_ns - SETTLED_NS || states[i].ctime_ns > begun_ns - SETTLED_NS) return;
    char *folder = cache_folder();
    char *path = folder ? entry_path(folder, artifact, states) : NULL;
    char *text = entry_text(artifact, states, id);
    if (path && text && (!make_folder(folder) || !replace(path, text)))
        TPV_INFO("digest of %s could not be kept as %s: %s", artifact->files[0].path, path, strerror(errno));
    free(text);
    free(path);
    free(folder);
}
