//go:build linux

package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// tools are the commands that tests run, taken from this machine with their libraries.
func tools() []string { return []string{"sh", "ip", "cat"} }

// Places in the machine.
const (
	// SuitesFile is the list of suites, as JSON.
	SuitesFile = "/suites.json"
	// ModulesDir has the kernel's modules, in the order of their names.
	ModulesDir = "/modules"
)

// TestBinary is where the tests of a suite are in the machine.
func TestBinary(suite int) string { return fmt.Sprintf(TestsDir+"/%d.test", suite) }

// writeImage writes the machine's first and only root: init, modules, tools, tests.
func writeImage(ctx context.Context, path string, k Kernel, suites []Suite) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	c := newCPIO(w)
	copies, err := sources(ctx, filepath.Dir(path), k, suites)
	if err != nil {
		return err
	}
	for _, s := range copies {
		content, err := os.ReadFile(s.from)
		if err != nil {
			return err
		}
		c.file(s.to, content)
	}
	list, err := json.Marshal(suites)
	if err != nil {
		return err
	}
	c.file(SuitesFile, list)
	for _, dir := range []string{"/dev", "/proc", "/sys", "/tmp", "/run", EngineRoot} {
		c.dir(dir)
	}
	c.device("/dev/console", 5, 1) // init's standard output, before /dev is mounted
	c.device("/dev/null", 1, 3)
	return errors.Join(c.close(), w.Flush())
}

// source is a file to be copied.
type source struct{ from, to string }

// sources builds what is to be built and lists all files.
func sources(ctx context.Context, work string, k Kernel, suites []Suite) (list []source, err error) {
	init := filepath.Join(work, "init")
	if err := goTool(ctx, "build", "-o", init, "./test/vm/init"); err != nil {
		return nil, err
	}
	list = append(list, source{init, "/init"})
	for _, m := range k.Modules {
		list = append(list, source{m, filepath.Join(ModulesDir, filepath.Base(m))})
	}
	for i, s := range suites {
		binary := filepath.Join(work, fmt.Sprintf("%d.test", i))
		if err := goTool(ctx, "test", "-c", "-o", binary, "./"+s.Dir); err != nil {
			return nil, err
		}
		list = append(list, source{binary, TestBinary(i)})
	}
	for _, t := range tools() {
		path, err := exec.LookPath(t)
		if err != nil {
			return nil, err
		}
		libs, err := libraries(ctx, path)
		if err != nil {
			return nil, err
		}
		list = append(list, source{path, "/bin/" + t})
		for _, lib := range libs {
			list = append(list, source{lib, lib})
		}
	}
	return list, nil
}

// goTool compiles as `make build` does, so that the packages need not be compiled again.
func goTool(ctx context.Context, verb string, args ...string) error {
	full := append([]string{"env", "CGO_ENABLED=0", "go", verb, "-trimpath", "-ldflags=-s -w"}, args...)
	return run(ctx, full...)
}

// libraries are the shared objects that a program is loaded with.
func libraries(ctx context.Context, path string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "ldd", path).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w: %s", path, err, strings.TrimSpace(string(out)))
	}
	var list []string
	for _, m := range regexp.MustCompile(`(/\S+) \(0x`).FindAllStringSubmatch(string(out), -1) {
		list = append(list, m[1])
	}
	return list, nil
}
