#include "tools/net_perf/builtin_net.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

/* src/transport/net_socket.cc: "ncclNet_t ncclNetSocket", with C linkage in all releases that were looked at (2.26.5 to
 * 2.32.3). */
#define SYMBOL "ncclNetSocket"

/* Which ncclNet_vN_t a release's own ncclNet_t is (src/include/plugin/nccl_net.h at each tag). */
static int abi_of(int release) {
    if (release >= 23003) return 12;
    if (release >= 22803) return 11;
    return release >= 22602 ? 10 : 0;
}

/* Where a local symbol lies in this process; NULL when there is none. */
static void *find(const char *file, uintptr_t base, const char *name) {
    /* The loader has accepted the file, so its headers are taken at their word. */
    const Elf64_Ehdr *header = (const void *)file;
    const Elf64_Shdr *sections = (const void *)(file + header->e_shoff);
    for (int i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        const Elf64_Sym *symbols = (const void *)(file + sections[i].sh_offset);
        const char *names = file + sections[sections[i].sh_link].sh_offset;
        for (size_t k = 0; k < sections[i].sh_size / sizeof *symbols; k++)
            if (symbols[k].st_shndx != SHN_UNDEF && strcmp(names + symbols[k].st_name, name) == 0)
                return (void *)(base + symbols[k].st_value);
    }
    return NULL;
}

/* connect and accept ask the CUDA runtime, which is linked into libnccl, for the current device, although only helper
 * threads look at the answer. Where there is no GPU, the answer is made to be device 0. */
static tpv_status_t pretend_device(void *get_device) {
    int device = 0;
    if (!get_device || ((int (*)(int *))get_device)(&device) == 0) return TPV_OK;
#if defined __x86_64__
    static const uint8_t code[] = {0x31, 0xc0, 0x89, 0x07, 0xc3}; /* xor eax, eax; mov [rdi], eax; ret */
#elif defined __aarch64__
    static const uint32_t code[] = {0xb900001f, 0x52800000, 0xd65f03c0}; /* str wzr, [x0]; mov w0, 0; ret */
#endif
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)get_device & ~(page - 1);
    size_t span = (((uintptr_t)get_device + sizeof code + page - 1) & ~(page - 1)) - begin;
    if (mprotect((void *)begin, span, PROT_READ | PROT_WRITE) != 0)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot do without a GPU: mprotect");
    memcpy(get_device, code, sizeof code);
    if (mprotect((void *)begin, span, PROT_READ | PROT_EXEC) != 0)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot do without a GPU: mprotect");
    __builtin___clear_cache((char *)get_device, (char *)get_device + sizeof code);
    return TPV_OK;
}

static tpv_status_t find_table(void *library, void **table) {
    struct link_map *map;
    struct stat info;
    if (dlinfo(library, RTLD_DI_LINKMAP, &map) != 0) return tpv_error_set(TPV_ERR_SYSTEM, "dlinfo: %s", dlerror());
    int fd = open(map->l_name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0) {
        tpv_status_t status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot open %s", map->l_name);
        if (fd >= 0) close(fd);
        return status;
    }
    const char *file = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (file == MAP_FAILED) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot map %s", map->l_name);
    *table = find(file, map->l_addr, SYMBOL);
    tpv_status_t status = *table ? pretend_device(find(file, map->l_addr, "cudaGetDevice"))
                                 : tpv_error_set(TPV_ERR_NOT_FOUND, "%s has no symbol " SYMBOL, map->l_name);
    munmap((void *)(uintptr_t)file, (size_t)info.st_size);
    return status;
}

tpv_status_t tpv_builtin_net_open(const char *path, tpv_net_t **net) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL), *table = NULL;
    if (!library) return tpv_error_set(TPV_ERR_NOT_FOUND, "no libnccl: %s", dlerror());
    int release = 0;
    ncclResult_t (*get_version)(int *) = (ncclResult_t(*)(int *))dlsym(library, "ncclGetVersion");
    tpv_status_t status = TPV_OK;
    if (!get_version || get_version(&release) != ncclSuccess)
        status = tpv_error_set(TPV_ERR_UNSUPPORTED, "%s does not tell its version", path);
    if (status == TPV_OK) status = find_table(library, &table);
    if (status == TPV_OK) status = tpv_net_open_table(library, table, abi_of(release), net);
    if (status != TPV_OK) {
        dlclose(library);
        return tpv_error_prefix(status, "NCCL %d", release);
    }
    return TPV_OK;
}
