//! Pages of a column, looked at before they are skipped or decoded.
//!
//! The crate's own reader skips by a page's header alone, and panics at a header that names another kind of page than it
//! describes; its decoders panic at values that point into a dictionary that is not there. Here a page counts only once it
//! has been read and checked, at the cost of decompressing those that are skipped.

use parquet::basic::Encoding;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};

/// The most values of a page. Writers end a page after a million bytes or twenty thousand rows, but a few bytes can claim
/// any number of equal values.
const MAX_PAGE_VALUES: u32 = 1 << 24;

/// The pages of one column, the next of which may have been read already.
pub(super) struct CheckedPages {
    inner: Box<dyn PageReader>,
    next: Option<Page>,
    has_dictionary: bool,
}

impl CheckedPages {
    pub(super) fn new(inner: Box<dyn PageReader>) -> Self {
        Self { inner, next: None, has_dictionary: false }
    }

    fn read(&mut self) -> Result<Option<Page>> {
        let Some(page) = self.inner.get_next_page()? else { return Ok(None) };
        if page.num_values() > MAX_PAGE_VALUES {
            let reason = format!("a page of {} values, more than {MAX_PAGE_VALUES}", page.num_values());
            return Err(ParquetError::General(reason));
        }
        if page.is_dictionary_page() {
            self.has_dictionary = true;
        } else if !self.has_dictionary
            && matches!(page.encoding(), Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY)
        {
            return Err(ParquetError::General("values of a dictionary that is not there".to_owned()));
        }
        Ok(Some(page))
    }
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        match self.next.take() {
            Some(page) => Ok(Some(page)),
            None => self.read(),
        }
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        if self.next.is_none() {
            self.next = self.read()?;
        }
        Ok(self.next.as_ref().map(|page| PageMetadata {
            num_rows: match page {
                Page::DataPageV2 { num_rows, .. } => usize::try_from(*num_rows).ok(),
                _ => None,
            },
            num_levels: match page {
                Page::DictionaryPage { .. } => None,
                page => usize::try_from(page.num_values()).ok(),
            },
            is_dict: page.is_dictionary_page(),
        }))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.get_next_page().map(drop)
    }
}
