//go:build linux

package vm

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// A Suite is the tests of one package that run in the machine.
type Suite struct {
	// Dir is the package's folder, relative to that of the module.
	Dir string
	// Tests are the names of the tests, without their subtests.
	Tests []string
}

// Needing finds the tests below a folder that call kerneltest.Needs. A call anywhere else
// than in a test itself is an error, because nobody could tell which tests it is about.
func Needing(root string) ([]Suite, error) {
	found := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != root && (name == "testdata" || name == "build" || strings.HasPrefix(name, ".")) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		if built, err := build.Default.MatchFile(filepath.Dir(path), d.Name()); err != nil || !built {
			return err
		}
		tests, err := needing(path)
		if err != nil || len(tests) == 0 {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		found[dir] = append(found[dir], tests...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for tests that need a stock kernel: %w", err)
	}
	var suites []Suite
	for dir, tests := range found {
		suites = append(suites, Suite{dir, tests})
	}
	slices.SortFunc(suites, func(a, b Suite) int { return strings.Compare(a.Dir, b.Dir) })
	return suites, nil
}

// needing are the tests of one file.
func needing(path string) (tests []string, err error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, decl := range file.Decls {
		at := needs(decl)
		if !at.IsValid() {
			continue
		}
		f, ok := decl.(*ast.FuncDecl)
		switch {
		case ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test"):
			tests = append(tests, f.Name.Name)
		case ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Benchmark"):
		default:
			return nil, fmt.Errorf("%s: kerneltest.Needs outside a test: call it in each test itself", fset.Position(at))
		}
	}
	return tests, nil
}

// needs is where a declaration calls kerneltest.Needs.
func needs(decl ast.Decl) (at token.Pos) {
	ast.Inspect(decl, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "Needs" {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "kerneltest" {
				at = s.Pos()
			}
		}
		return !at.IsValid()
	})
	return at
}
