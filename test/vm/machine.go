//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// limit is for how long the machine may run; a good run takes a fraction of it.
const limit = 20 * time.Minute

// kernelArguments has, beside what a machine of tests wants, what spares an emulated
// processor work: where a program is always in one place, it is translated once, not at
// each start; and nobody has to look for faults in the machine's timers, which are perfect.
const kernelArguments = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr norandmaps init_on_alloc=0 " +
	"cryptomgr.notests noapictimer no_timer_check tsc=reliable"

// Run boots the machine and has it run the suites. What it is made of and what it wrote
// stays in the folder work: console.log is the kernel's, tests.log that of the tests. An
// error means that the machine did not come to its end; the results say what it was at.
func Run(ctx context.Context, k Kernel, suites []Suite, work string) ([]Result, error) {
	if err := os.MkdirAll(work, 0o755); err != nil {
		return nil, err
	}
	image := filepath.Join(work, "initramfs.cpio")
	if err := writeImage(ctx, image, k, suites); err != nil {
		return nil, fmt.Errorf("make the machine's root: %w", err)
	}
	memory, disks := "512", []string(nil)
	if slices.ContainsFunc(suites, Suite.HasEngine) {
		root, err := fetchEngine(ctx)
		if err != nil {
			return nil, fmt.Errorf("make the machine's disk: %w", err)
		}
		plugin, err := pluginDisk(ctx, work)
		if err != nil {
			return nil, fmt.Errorf("make the disk of the plugin: %w", err)
		}
		const drive = "if=virtio,format=raw,cache=unsafe,snapshot=on,file="
		memory, disks = "1536", []string{"-drive", drive + root, "-drive", drive + plugin}
	}
	console, tests := filepath.Join(work, "console.log"), filepath.Join(work, "tests.log")
	if err := errors.Join(os.RemoveAll(console), os.RemoveAll(tests)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out, failed := exec.CommandContext(ctx, "qemu-system-x86_64", append(disks,
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		// A clock of instructions, 2^1 ns each, that jumps over idle time: a processor fast
		// enough for the deadlines of an engine.
		"-machine", "pc", "-accel", "tcg", "-icount", "shift=1,sleep=off", "-smp", "1", "-m", memory,
		"-kernel", k.Image, "-initrd", image,
		"-append", kernelArguments,
		"-serial", "file:"+console, "-serial", "file:"+tests)...).CombinedOutput()
	if errors.Is(failed, exec.ErrNotFound) {
		return nil, fmt.Errorf("%w: install it with `apt-get install qemu-system-x86`, as test/run.sh does", failed)
	}
	if ctx.Err() != nil {
		failed = fmt.Errorf("the machine still ran after %s: %w", limit, ctx.Err())
	}
	text, err := os.ReadFile(tests)
	if failed = errors.Join(failed, err); failed != nil {
		failed = fmt.Errorf("%w\n%s", failed, out)
	}
	results, done := Parse(string(text), suites)
	if !done {
		failed = errors.Join(errors.New("the machine did not come to its end: "+console+" may say why"), failed)
	}
	return results, failed
}
