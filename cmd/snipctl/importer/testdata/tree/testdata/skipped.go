// Package skipped is test data.
package skipped
