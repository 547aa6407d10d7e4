// Package canary_test fails in the ways in which tests fail: a run that does not see that
// is worth nothing.
package canary_test

import "testing"

func TestPasses(*testing.T) {}

func TestFails(t *testing.T) { t.Error("a run has to see that a test failed: this one always does") }

func TestSkips(t *testing.T) { t.Skip("a run has to see that a test was skipped: this one always is") }
