#include "common/test_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void require(int good, const char *what) {
    if (good) return;
    perror(what);
    abort();
}

char *test_folder_make(void) {
    const char *base = getenv("TMPDIR");
    char *folder = NULL;
    require(asprintf(&folder, "%s/tpview-test-XXXXXX", base && *base ? base : "/tmp") > 0, "asprintf");
    require(mkdtemp(folder) != NULL, "mkdtemp");
    return folder;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *position) {
    (void)info;
    (void)kind;
    (void)position;
    return remove(path);
}

void test_folder_remove(char *folder) {
    require(nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS) == 0, folder);
    free(folder);
}

size_t test_folder_count(const char *folder) {
    DIR *directory = opendir(folder);
    size_t count = 0;
    const struct dirent *entry = NULL;
    while (directory && (entry = readdir(directory)))
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (directory) closedir(directory);
    return count;
}

const char *test_path(const char *folder, const char *name) {
    static char paths[8][4096];
    static unsigned turn;
    char *path = paths[turn++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static int open_new(const char *path) {
    int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    require(descriptor >= 0, path);
    return descriptor;
}

static void put(int descriptor, const void *bytes, size_t length) {
    require(write(descriptor, bytes, length) == (ssize_t)length, "write");
}

void test_file_write(const char *path, const void *bytes, size_t length) {
    int descriptor = open_new(path);
    put(descriptor, bytes, length);
    close(descriptor);
}

void test_file_write_text(const char *path, const char *text) {
    test_file_write(path, text, strlen(text));
}

void test_file_poke(const char *path, uint64_t offset, uint8_t byte) {
    int descriptor = open(path, O_WRONLY | O_CLOEXEC);
    require(descriptor >= 0, path);
    require(pwrite(descriptor, &byte, 1, (off_t)offset) == 1, path);
    close(descriptor);
}

void test_file_resize(const char *path, uint64_t length) {
    require(truncate(path, (off_t)length) == 0, path);
}

static int write_header(const char *path, const char *header) {
    uint64_t length = strlen(header);
    uint8_t encoded[8];
    for (int i = 0; i < 8; i++)
        encoded[i] = (uint8_t)(length >> (8 * i));
    int descriptor = open_new(path);
    put(descriptor, encoded, sizeof encoded);
    put(descriptor, header, length);
    return descriptor;
}

void test_safetensors_write(const char *path, const char *header, size_t data_bytes, uint32_t seed) {
    uint8_t *data = malloc(data_bytes + 1);
    require(data != NULL, "malloc");
    for (size_t i = 0; i < data_bytes; i++)
        data[i] = (uint8_t)((seed + (uint32_t)i * UINT32_C(2654435761)) >> 24);
    int descriptor = write_header(path, header);
    put(descriptor, data, data_bytes);
    close(descriptor);
    free(data);
}

void test_safetensors_write_sparse(const char *path, const char *header, uint64_t data_bytes) {
    int descriptor = write_header(path, header);
    require(ftruncate(descriptor, (off_t)(8 + strlen(header) + data_bytes)) == 0, path);
    close(descriptor);
}
