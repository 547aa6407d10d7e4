//go:build linux

package vm

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/weft-net/weft/test/lab"
)

// wanted are the modules of the devices that tests make, of the machine's disk, and of what
// engine and plugin do with nftables and the engine with iptables.
const wanted = "veth bridge dummy 8021q macvlan ipvlan vrf" +
	" crc32c_generic virtio_pci virtio_blk ext4 overlay" +
	" nft_chain_nat nft_ct nft_fib_inet nft_fwd_netdev nft_masq nft_nat nf_conntrack_netlink" +
	" nft_compat xt_addrtype xt_conntrack xt_MASQUERADE xt_mark"

// The newest kernel of the machine's Debian release, as the package depends on it.
const downloadScript = `
	cd "$0"
	get() {
		package=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: //p' | head -n1)
		[ -n "$package" ] && apt-get download -q "$package"
	}
	get || { apt-get update -q && get; }`

// What may be needed of the package; releases differ in whether there is a /usr before it.
// Without its signature, which strip leaves out, a module is loaded sooner.
const unpackScript = `
	cd "$0"
	mkdir tree
	dpkg-deb --fsys-tarfile *.deb | tar -x -C tree --wildcards '*/vmlinuz-*' '*/kernel/net/*' '*/kernel/drivers/net/*' \
		'*/kernel/crypto/*' '*/kernel/drivers/block/*' '*/kernel/drivers/virtio/*' '*/kernel/fs/*' '*/kernel/lib/*'
	find tree -name '*.ko.xz' -exec xz -d {} +
	find tree -name '*.ko' -exec strip --strip-debug {} +
	mv tree/boot/vmlinuz-* vmlinuz
	rm *.deb`

// The kernel itself out of its image, as the header of the image says (see the kernel's
// x86/boot): an emulated processor would need longer for that than for all the rest.
const kernelScript = `
	cd "$0"
	number() { od -An -t"$1" -j"$2" -N"${1#u}" vmlinuz | tr -d ' '; }
	begin=$((($(number u1 0x1f1) + 1) * 512 + $(number u4 0x248)))
	length=$(($(number u4 0x24c) - 4)) # without the size of what is packed
	tail -c +$((begin + 1)) vmlinuz | head -c $length >packed || [ $(stat -c %s packed) = $length ]
	for tool in xz zstd gzip; do ! $tool -dc <packed >vmlinux 2>/dev/null || break; done
	[ -s vmlinux ]
	rm packed vmlinuz`

// A Kernel is what the machine boots.
type Kernel struct {
	// Image is the path of the kernel, Modules are those of its modules in the order in
	// which they have to be loaded.
	Image   string
	Modules []string
}

// Fetch returns Debian's stock kernel from the cache of package lab, and downloads it if
// it is not there.
func Fetch(ctx context.Context) (Kernel, error) {
	dir, err := lab.Cached(ctx, "vm/"+lab.Recipe(wanted, downloadScript, unpackScript, kernelScript), func(ctx context.Context, tmp string) error {
		if err := os.MkdirAll(tmp, 0o755); err != nil {
			return err
		}
		for _, script := range []string{downloadScript, unpackScript, kernelScript} {
			if err := run(ctx, "bash", "-eu", "-c", script, tmp); err != nil {
				return err
			}
		}
		return errors.Join(keep(tmp), os.RemoveAll(filepath.Join(tmp, "tree")))
	})
	if err != nil {
		return Kernel{}, err
	}
	k := Kernel{Image: filepath.Join(dir, "vmlinux")}
	k.Modules, err = filepath.Glob(filepath.Join(dir, "modules", "*.ko"))
	return k, err
}

// run runs a command; its output is a part of the error.
func run(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// keep copies the modules that are wanted, and those that they depend on, under names
// whose order is that of loading.
func keep(dir string) error {
	paths := map[string]string{}
	err := filepath.WalkDir(filepath.Join(dir, "tree"), func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			paths[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return err
	}
	order, err := loadOrder(strings.Fields(wanted), func(name string) ([]string, error) {
		path, ok := paths[strings.ReplaceAll(name, "-", "_")]
		if !ok {
			return nil, fmt.Errorf("the kernel's package has no module %s", name)
		}
		return dependencies(path)
	})
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "modules"), 0o755); err != nil {
		return err
	}
	for i, name := range order {
		to := filepath.Join(dir, "modules", fmt.Sprintf("%02d-%s.ko", i, name))
		if err := os.Rename(paths[strings.ReplaceAll(name, "-", "_")], to); err != nil {
			return err
		}
	}
	return nil
}

// loadOrder puts modules after those that they depend on.
func loadOrder(names []string, needed func(name string) ([]string, error)) ([]string, error) {
	var order []string
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		if seen[name] {
			return nil
		}
		seen[name] = true
		before, err := needed(name)
		if err != nil {
			return err
		}
		for _, b := range before {
			if err := visit(b); err != nil {
				return err
			}
		}
		order = append(order, name)
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// dependencies are the modules that one needs, as it says itself.
func dependencies(path string) ([]string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	file, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", path, err)
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("module %s says nothing of itself", path)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", path, err)
	}
	for word := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(word, "depends="); ok {
			return strings.FieldsFunc(list, func(r rune) bool { return r == ',' }), nil
		}
	}
	return nil, nil
}
