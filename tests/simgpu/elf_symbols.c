#include "simgpu/elf_symbols.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static long visit_table(const char *file, const Elf64_Shdr *table, const Elf64_Shdr *strings, uintptr_t base,
                        sim_symbol_visitor_t *visit, void *context) {
    const Elf64_Sym *symbols = (const void *)(file + table->sh_offset);
    size_t count = table->sh_size / sizeof *symbols;
    long visited = 0;
    for (size_t i = 0; i < count; i++) {
        if (!symbols[i].st_value || symbols[i].st_shndx == SHN_UNDEF) continue;
        struct sim_symbol symbol = {.name = file + strings->sh_offset + symbols[i].st_name,
                                    .address = (void *)(base + symbols[i].st_value),
                                    .size = symbols[i].st_size,
                                    .is_function = ELF64_ST_TYPE(symbols[i].st_info) == STT_FUNC};
        visit(&symbol, context);
        visited++;
    }
    return visited;
}

long sim_symbols_visit(void *library, sim_symbol_visitor_t *visit, void *context) {
    struct link_map *map;
    if (dlinfo(library, RTLD_DI_LINKMAP, &map)) return -1;
    int fd = open(map->l_name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    long visited = -1;
    struct stat info;
    char *file = MAP_FAILED;
    if (fstat(fd, &info) == 0 && (size_t)info.st_size > sizeof(Elf64_Ehdr))
        file = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (file == MAP_FAILED) return -1;
    /* The loader has accepted this file already, so its headers are taken at their word. */
    const Elf64_Ehdr *header = (const void *)file;
    const Elf64_Shdr *sections = (const void *)(file + header->e_shoff);
    for (int i = 0; i < header->e_shnum && visited < 0; i++)
        if (sections[i].sh_type == SHT_SYMTAB)
            visited = visit_table(file, &sections[i], &sections[sections[i].sh_link], map->l_addr, visit, context);
    munmap(file, (size_t)info.st_size);
    return visited;
}
